//! What the words of a policy share: how they stand in a plan file, and how lists of sizes are read.

/// Serialises types as the words that they print, and reads them with `FromStr`. A number that went through a word is the
/// same number: JSON readers may round floating-point numbers, `f64::from_str` does not.
macro_rules! serde_as_word {
    ($($word:ty),+) => {$(
        impl serde::Serialize for $word {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $word {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                word.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
pub(crate) use serde_as_word;

/// A list like `1,2,4`, ascending and without repetition; the empty word is the empty list. `Err` is the entry that is no
/// number from 1 to `u32::MAX`.
pub(crate) fn read_list(word: &str) -> Result<Vec<u32>, String> {
    if word.is_empty() {
        return Ok(Vec::new());
    }
    let entry = |entry: &str| {
        // `u32::from_str` alone would take a leading plus sign.
        let number = entry.bytes().all(|byte| byte.is_ascii_digit()).then(|| entry.parse().ok()).flatten();
        number.filter(|&number| number > 0).ok_or_else(|| entry.to_owned())
    };
    word.split(',').map(entry).collect::<Result<Vec<u32>, _>>().map(ascending)
}

/// The same numbers, ascending and each once.
pub(crate) fn ascending(mut list: Vec<u32>) -> Vec<u32> {
    list.sort_unstable();
    list.dedup();
    list
}

/// `1,2,4`.
pub(crate) fn write_list(list: &[u32]) -> String {
    list.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
