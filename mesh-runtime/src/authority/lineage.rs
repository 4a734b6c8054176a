//! Which SVIDs were replaced by others. An SVID that was asked for is not yet one that is used: its answer may have been lost, and
//! then the one before is all that its member has. So only what was shown here replaces what it was issued for.

use std::collections::{HashMap, HashSet};

use crate::store::IdentityRecord;

/// Serial numbers, and what they took the place of. In memory alone: members show theirs again when they connect again.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    before: HashMap<String, String>,
    replaced: HashSet<String>,
}

impl Lineage {
    pub(super) fn of(identities: &[(String, IdentityRecord)]) -> Self {
        let mut lineage = Self::default();
        for (serial, identity) in identities {
            if let Some(before) = &identity.replaces {
                lineage.issued(serial, before);
            }
        }
        lineage
    }

    /// `serial` was issued to whoever showed `before`.
    pub(super) fn issued(&mut self, serial: &str, before: &str) {
        self.before.insert(serial.to_owned(), before.to_owned());
    }

    /// `serial` was shown.
    pub(super) fn shown(&mut self, serial: &str) {
        if let Some(before) = self.before.remove(serial) {
            self.replaced.insert(before);
        }
    }

    /// Nobody has the key of `serial` any more.
    pub(super) fn lost(&mut self, serial: &str) {
        self.replaced.insert(serial.to_owned());
    }

    /// Whether `serial` was replaced.
    pub(super) fn is_replaced(&self, serial: &str) -> bool {
        self.replaced.contains(serial)
    }

    /// There is no record of `serial` any more.
    pub(super) fn forget(&mut self, serial: &str) {
        self.before.remove(serial);
        self.replaced.remove(serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_shown_replaces_what_was_before() {
        let mut lineage = Lineage::default();
        lineage.issued("b", "a");
        lineage.issued("c", "a");
        assert!(!lineage.is_replaced("a"), "both answers may have been lost");
        lineage.shown("c");
        assert!(lineage.is_replaced("a") && !lineage.is_replaced("b") && !lineage.is_replaced("c"));
        lineage.forget("a");
        assert!(!lineage.is_replaced("a"));
    }
}
