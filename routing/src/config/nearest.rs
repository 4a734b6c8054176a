//! "Did you mean": the known word nearest to one that is not known.

/// The candidate nearest to `word`, if one is near enough that a slip of the finger explains it.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the word may be wrong, and at least one letter.
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// How many insertions, deletions, substitutions and swaps of neighbours turn `a` into `b`, letter case and `-` for `_` left aside.
fn distance(a: &str, b: &str) -> usize {
    let letters = |word: &str| -> Vec<char> {
        // Longer words are never a slip; the bound keeps hostile input cheap.
        word.chars()
            .take(64)
            .map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() })
            .collect()
    };
    let (a, b) = (letters(a), letters(b));
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    const KEYS: [&str; 5] = ["timeout", "retry", "rewrite", "path_prefix", "match"];

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        assert_eq!(nearest("timeot", KEYS), Some("timeout"));
        assert_eq!(nearest("retyr", KEYS), Some("retry"));
        assert_eq!(nearest("path-prefix", KEYS), Some("path_prefix"));
        assert_eq!(nearest("Match", KEYS), Some("match"));
    }

    #[test]
    fn a_word_of_its_own_is_left_alone() {
        assert_eq!(nearest("colour", KEYS), None);
        assert_eq!(nearest("", KEYS), None);
    }
}
