//! The contract of a store as cases that any store must pass.

use std::sync::Arc;

use super::{Batch, Outcome, Store, Table};

/// Runs every case. `open` opens the same, at first empty, store again after the one before was dropped.
pub(crate) async fn check<S: Store>(open: impl Fn() -> Arc<S>) {
    let store = open();
    an_empty_store_reads_as_empty(&*store).await;
    what_is_written_reads_back_in_order(&*store).await;
    a_batch_whose_condition_fails_changes_nothing(&*store).await;
    changes_of_a_batch_happen_in_their_order(&*store).await;
    of_two_that_exclude_each_other_one_happens(&store).await;
    many_at_once_are_all_kept(&store).await;
    a_dump_is_of_one_moment(&store).await;
    let before = everything(&*store).await;
    drop(store);
    assert_eq!(
        everything(&*open()).await,
        before,
        "what was acknowledged is there after opening again"
    );
}

async fn everything(store: &dyn Store) -> Vec<(Table, String, Vec<u8>)> {
    let mut all = Vec::new();
    for table in Table::ALL {
        all.extend(
            store
                .scan(table)
                .await
                .unwrap()
                .into_iter()
                .map(|(key, value)| (table, key, value)),
        );
    }
    all
}

/// Every batch moves one record and counts: a dump that saw half of one would hold two, or none, or an older count.
async fn a_dump_is_of_one_moment<S: Store>(store: &Arc<S>) {
    let writer = Arc::clone(store);
    let writing = tokio::spawn(async move {
        for n in 0..100_u32 {
            let outcome = commit(&*writer, |batch| {
                batch
                    .put(Table::Facts, "moves", n.to_be_bytes())
                    .put(Table::Identities, format!("{n:03}"), *b"here");
                if let Some(before) = n.checked_sub(1) {
                    batch.delete(Table::Identities, format!("{before:03}"));
                }
            })
            .await;
            assert_eq!(outcome, Outcome::Committed);
        }
    });
    while !writing.is_finished() {
        let dump = store.dump().await.unwrap();
        let at = |table| dump.iter().filter(move |(of, ..)| *of == table);
        let places: Vec<_> = at(Table::Identities).map(|(_, key, _)| key.as_str()).collect();
        let moves = at(Table::Facts).find(|(_, key, _)| key == "moves");
        let expected = moves.map(|(_, _, n)| format!("{:03}", u32::from_be_bytes(n.as_slice().try_into().unwrap())));
        assert_eq!(places, expected.as_deref().as_slice());
    }
    writing.await.unwrap();
    assert_eq!(store.dump().await.unwrap(), everything(&**store).await);
}

async fn commit(store: &dyn Store, fill: impl FnOnce(&mut Batch)) -> Outcome {
    let mut batch = Batch::default();
    fill(&mut batch);
    store.commit(batch).await.unwrap()
}

async fn an_empty_store_reads_as_empty(store: &dyn Store) {
    for table in Table::ALL {
        assert_eq!(store.scan(table).await.unwrap(), []);
        assert_eq!(store.read(table, "x").await.unwrap(), None);
    }
}

async fn what_is_written_reads_back_in_order(store: &dyn Store) {
    let outcome = commit(store, |batch| {
        batch
            .put(Table::Facts, "b", *b"2")
            .put(Table::Facts, "a", *b"1")
            .put(Table::Tokens, "a", *b"other");
    })
    .await;
    assert_eq!(outcome, Outcome::Committed);
    assert_eq!(
        store.scan(Table::Facts).await.unwrap(),
        [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]
    );
    assert_eq!(
        store.read(Table::Tokens, "a").await.unwrap(),
        Some(b"other".to_vec()),
        "tables are apart"
    );
    assert_eq!(store.read(Table::Tokens, "b").await.unwrap(), None);
}

async fn a_batch_whose_condition_fails_changes_nothing(store: &dyn Store) {
    let before = everything(store).await;
    for is in [None, Some(b"another".to_vec())] {
        let outcome = commit(store, |batch| {
            batch
                .only_if(Table::Facts, "b", Some(b"2".to_vec()))
                .only_if(Table::Facts, "a", is);
            batch.put(Table::Facts, "a", *b"changed").delete(Table::Facts, "b");
        })
        .await;
        assert_eq!(outcome, Outcome::Conflict);
    }
    assert_eq!(everything(store).await, before);
}

async fn changes_of_a_batch_happen_in_their_order(store: &dyn Store) {
    let outcome = commit(store, |batch| {
        batch
            .only_if(Table::Facts, "c", None)
            .put(Table::Facts, "c", *b"1")
            .put(Table::Facts, "c", *b"2");
        batch
            .put(Table::Facts, "d", *b"1")
            .delete(Table::Facts, "d")
            .delete(Table::Facts, "never there");
    })
    .await;
    assert_eq!(outcome, Outcome::Committed);
    assert_eq!(store.read(Table::Facts, "c").await.unwrap(), Some(b"2".to_vec()));
    assert_eq!(store.read(Table::Facts, "d").await.unwrap(), None);
}

async fn of_two_that_exclude_each_other_one_happens<S: Store>(store: &Arc<S>) {
    let tries: Vec<_> = (0..32_u8)
        .map(|n| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                commit(&*store, |batch| {
                    batch.only_if(Table::Tokens, "once", None).put(Table::Tokens, "once", [n]);
                })
                .await
            })
        })
        .collect();
    let mut won = Vec::new();
    for (n, attempt) in (0..).zip(tries) {
        if attempt.await.unwrap() == Outcome::Committed {
            won.push(vec![n]);
        }
    }
    assert_eq!(won.len(), 1, "exactly one of them may use it");
    assert_eq!(store.read(Table::Tokens, "once").await.unwrap(), won.pop());
}

async fn many_at_once_are_all_kept<S: Store>(store: &Arc<S>) {
    let writes: Vec<_> = (0..300_u32)
        .map(|n| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                commit(&*store, |batch| {
                    batch.put(Table::Registrations, format!("{n:03}"), n.to_be_bytes());
                })
                .await
            })
        })
        .collect();
    for write in writes {
        assert_eq!(write.await.unwrap(), Outcome::Committed);
    }
    let expected: Vec<_> = (0..300_u32).map(|n| (format!("{n:03}"), n.to_be_bytes().to_vec())).collect();
    assert_eq!(store.scan(Table::Registrations).await.unwrap(), expected);
}
