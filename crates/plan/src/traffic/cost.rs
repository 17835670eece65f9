//! What a step costs by its tokens: the curve that fits minimise and evaluations report.

use thiserror::Error;

use super::table::{Table, TableError};

const TOKENS: &str = "tokens";
const SECONDS: &str = "seconds";

const PICOSECONDS: f64 = 1e12;
/// The longest step: 53 days. Sums over as many steps as a histogram may hold stay within 128 bits.
const LONGEST_STEP: u64 = 1 << 62;
/// The longest step that a curve may be given.
const LONGEST_SECONDS: f64 = 3600.0;

/// The time of a step as a function of the tokens that it executes: positive, and never less for more tokens.
///
/// Times are whole picoseconds, so that sums are exact and comparisons of them too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostCurve {
    law: Law,
    tile: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Law {
    /// The larger of the two, the latter times the tokens, in femtoseconds.
    Analytic { floor: u128, per_token: u128 },
    /// Ascending tokens, each with its picoseconds; at least two.
    Table(Vec<(u32, u64)>),
}

/// Why numbers make no cost curve.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[non_exhaustive]
pub enum CostError {
    /// A negative, infinite or absurd time of a step.
    #[error("the least time of a step is `{seconds}` seconds; it must be from 0 to 3600")]
    Floor {
        /// The time given.
        seconds: f64,
    },
    /// A negative, infinite or absurd time of a token.
    #[error("the time of a token is `{seconds}` seconds; it must be from 0 to 1")]
    PerToken {
        /// The time given.
        seconds: f64,
    },
    /// A step of one token that takes no time.
    #[error("a step of one token takes `0` picoseconds; it must take at least 1")]
    NoTime,
    /// Tiles of nothing.
    #[error("the tile is `0` tokens; it must be at least 1")]
    NoTile,
}

impl CostCurve {
    /// `max(floor_seconds, seconds_per_token * tokens)`: the weights are read once per step, and each token is computed.
    ///
    /// # Errors
    /// A number that is negative, not finite or absurd; no time at all.
    pub fn analytic(floor_seconds: f64, seconds_per_token: f64) -> Result<Self, CostError> {
        if !(0.0..=LONGEST_SECONDS).contains(&floor_seconds) {
            return Err(CostError::Floor { seconds: floor_seconds });
        }
        if !(0.0..=1.0).contains(&seconds_per_token) {
            return Err(CostError::PerToken { seconds: seconds_per_token });
        }
        let femtoseconds = |seconds: f64| (seconds * PICOSECONDS * 1e3).round() as u128;
        let law = Law::Analytic { floor: femtoseconds(floor_seconds), per_token: femtoseconds(seconds_per_token) };
        let curve = Self { law, tile: 1 };
        if curve.picoseconds(1) == 0 { Err(CostError::NoTime) } else { Ok(curve) }
    }

    /// Reads CSV with the columns `tokens` and `seconds`: the time of a step measured at these token counts. Between two
    /// rows the curve is the straight line, above the last it goes on as between the last two, below the first it is flat.
    ///
    /// # Errors
    /// What is wrong first, with `file` as the file's name, the line and the field: a column that is missing, a number that
    /// is none or out of range, tokens that do not ascend, seconds that descend, fewer than two rows.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, TableError> {
        let mut table = Table::new(bytes, file, [TOKENS, SECONDS])?;
        let mut rows: Vec<(u32, u64)> = Vec::new();
        while let Some([tokens, seconds]) = table.next_row()? {
            let tokens = match tokens.parse() {
                Ok(tokens @ 1..) => tokens,
                _ => return Err(table.value_error(TOKENS, tokens, "a whole number from 1 to 4294967295")),
            };
            let time = match seconds.parse::<f64>() {
                Ok(seconds) if (1e-12..=LONGEST_SECONDS).contains(&seconds) => (seconds * PICOSECONDS).round() as u64,
                _ => return Err(table.value_error(SECONDS, seconds, "a number of seconds from 1e-12 to 3600")),
            };
            if let Some(&(previous_tokens, previous_time)) = rows.last() {
                if tokens <= previous_tokens {
                    return Err(table.order_error(TOKENS, tokens, previous_tokens, "increase from line to line"));
                }
                if time < previous_time {
                    let previous = previous_time as f64 / PICOSECONDS;
                    let order = "not decrease from line to line, because a fit takes more tokens to cost no less";
                    return Err(table.order_error(SECONDS, seconds, previous, order));
                }
            }
            rows.push((tokens, time));
        }
        table.require_rows(2)?;
        Ok(Self { law: Law::Table(rows), tile: 1 })
    }

    /// The same curve in steps: tokens are rounded up to a multiple of `tile`, as matrix kernels do that compute whole
    /// tiles. 1 is the curve itself.
    ///
    /// # Errors
    /// A tile of 0.
    pub fn with_tile(self, tile: u32) -> Result<Self, CostError> {
        if tile == 0 { Err(CostError::NoTile) } else { Ok(Self { tile, ..self }) }
    }

    /// The tokens of a tile. 1 for a curve without steps.
    #[must_use]
    pub fn tile(&self) -> u32 {
        self.tile
    }

    /// The time of a step that executes so many tokens, in picoseconds: at least 1, and at most 2^62.
    #[must_use]
    pub fn picoseconds(&self, tokens: u64) -> u64 {
        let tokens = u128::from(tokens.max(1)).next_multiple_of(self.tile.into());
        let time = match &self.law {
            Law::Analytic { floor, per_token } => per_token.saturating_mul(tokens).max(*floor) / 1000,
            Law::Table(rows) => interpolate(rows, tokens),
        };
        u64::try_from(time).unwrap_or(LONGEST_STEP).min(LONGEST_STEP)
    }

    /// The same in seconds.
    #[must_use]
    pub fn seconds(&self, tokens: u64) -> f64 {
        self.picoseconds(tokens) as f64 / PICOSECONDS
    }
}

/// Never decreases: it is rounded down from a line that does not, and meets the rows exactly.
fn interpolate(rows: &[(u32, u64)], tokens: u128) -> u128 {
    let above = rows.partition_point(|&(row, _)| u128::from(row) < tokens);
    if above == 0 {
        return rows[0].1.into();
    }
    let upper = above.min(rows.len() - 1);
    let ((x0, y0), (x1, y1)) = (rows[upper - 1], rows[upper]);
    let slope = u128::from(y1 - y0).saturating_mul(tokens - u128::from(x0));
    u128::from(y0) + slope / u128::from(x1 - x0)
}

impl Default for CostCurve {
    /// max(3.8 ms, 22.86 us * tokens): an 8B model on an H200, from 16 GFLOP per token at 700 TFLOP/s and the weights at
    /// the bandwidth of the memory.
    fn default() -> Self {
        Self { law: Law::Analytic { floor: 3_800_000_000_000, per_token: 22_860_000_000 }, tile: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_flat_up_to_166_tokens() {
        let curve = CostCurve::default();
        assert_eq!(Ok(curve.clone()), CostCurve::analytic(3.8e-3, 22.86e-6));
        assert_eq!([1, 166].map(|tokens| curve.picoseconds(tokens)), [3_800_000_000; 2]);
        assert_eq!(curve.picoseconds(167), 167 * 22_860_000);
        assert!((curve.seconds(8192) - 0.187_269_12).abs() < 1e-12);
    }

    #[test]
    fn tiles_round_up() {
        let curve = CostCurve::default().with_tile(128).expect("a tile");
        assert_eq!(curve.picoseconds(1025), CostCurve::default().picoseconds(1152));
        assert_eq!(curve.picoseconds(1152), CostCurve::default().picoseconds(1152));
        assert_eq!(CostCurve::default().with_tile(0), Err(CostError::NoTile));
    }

    #[test]
    fn a_table_is_a_line_between_rows() {
        let curve =
            CostCurve::parse(b"tokens,seconds\n10,0.001\n20,0.002\n40,0.002\n50,0.003\n", "c.csv").expect("curve");
        let micros = |tokens| curve.picoseconds(tokens) / 1_000_000;
        assert_eq!(
            [1, 10, 15, 20, 30, 40, 45, 50, 60].map(micros),
            [1000, 1000, 1500, 2000, 2000, 2000, 2500, 3000, 4000]
        );
        assert_eq!(curve.picoseconds(u64::MAX), LONGEST_STEP);
    }

    #[test]
    fn curves_that_fall_are_refused() {
        let error = |text: &str| CostCurve::parse(text.as_bytes(), "c.csv").expect_err(text).to_string();
        assert_eq!(
            error("tokens,seconds\n8,0.002\n16,0.001\n"),
            "`c.csv`, line 3: `seconds` is `0.001` after `0.002`; it must not decrease from line to line, because a fit takes \
             more tokens to cost no less"
        );
        assert!(error("tokens,seconds\n8,1\n8,1\n").contains("`tokens` is `8` after `8`; it must increase"));
        assert!(error("tokens,seconds\n8,1\n").contains("at least 2"));
        for seconds in ["0", "-1", "nan", "inf", "1e9", ""] {
            assert!(error(&format!("tokens,seconds\n8,{seconds}\n")).contains("line 2: `seconds` is"), "{seconds}");
        }
        for tokens in ["0", "-1", "1.5", "4294967296"] {
            assert!(error(&format!("tokens,seconds\n{tokens},1\n")).contains("line 2: `tokens` is"), "{tokens}");
        }
    }

    #[test]
    fn absurd_numbers_are_no_curve() {
        assert!(matches!(CostCurve::analytic(-1.0, 1e-6), Err(CostError::Floor { .. })));
        assert!(matches!(CostCurve::analytic(f64::NAN, 1e-6), Err(CostError::Floor { .. })));
        assert!(matches!(CostCurve::analytic(0.0, f64::INFINITY), Err(CostError::PerToken { .. })));
        assert_eq!(CostCurve::analytic(0.0, 0.0), Err(CostError::NoTime));
        assert_eq!(CostCurve::analytic(3600.0, 1.0).map(|curve| curve.picoseconds(u64::MAX)), Ok(LONGEST_STEP));
    }

    #[test]
    fn a_curve_never_falls() {
        let table = CostCurve::parse(b"tokens,seconds\n3,1e-12\n10,1e-11\n1000,1.1e-11\n4294967295,3600\n", "c.csv");
        let curves = [CostCurve::default(), table.expect("a curve"), CostCurve::analytic(0.0, 1e-12).expect("a curve")];
        for curve in curves.iter().flat_map(|curve| [1, 7].map(|tile| curve.clone().with_tile(tile).expect("a tile"))) {
            let wide = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit]).chain([u64::MAX]);
            let times =
                |tokens: &mut dyn Iterator<Item = u64>| tokens.map(|t| curve.picoseconds(t)).collect::<Vec<_>>();
            assert!(times(&mut (1..3000)).is_sorted() && times(&mut wide.skip(1)).is_sorted());
        }
    }
}
