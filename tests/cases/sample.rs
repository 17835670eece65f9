//! kernels/sample.cu against float64, a sort, and an independent Gumbel-max over an independent Philox.

use gridpoint_runtime::parameters::{
    GRIDPOINT_SAMPLE_SHARED_BYTES, GRIDPOINT_SAMPLE_THREADS, LogitResult, LogitRow, SampleParameters,
};

use super::fixture::{Random, step_block};
use crate::support::{Case, TestDevice};

/// Draws whose two best candidates are closer than this may go either way: float32 rounds logit / temperature + noise, both up to
/// about 30, and its logarithms err by a few units of the last place.
const DRAW_MARGIN: f64 = 2e-5;
/// Likewise for a token that belongs to the survivors of top_p by this much of the probability or less.
const MASS_MARGIN: f64 = 2e-5;

/// The cases of this kernel.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, run| Case { name, run };
    vec![
        case("sample/philox_known_answers", philox_known_answers as fn(&TestDevice)),
        case("sample/greedy_and_scores_match_float64", greedy_and_scores_match_float64),
        case("sample/large_vocabularies", large_vocabularies),
        case("sample/ties_go_to_the_smallest_id", ties_go_to_the_smallest_id),
        case("sample/draws_are_gumbel_max", draws_are_gumbel_max),
        case("sample/draws_reach_the_tail", draws_reach_the_tail),
        case("sample/filters_keep_exactly_their_set", filters_keep_exactly_their_set),
        case("sample/filters_resolve_ties_by_id", filters_resolve_ties_by_id),
        case("sample/draws_follow_the_distribution", draws_follow_the_distribution),
        case("sample/draws_depend_on_seed_and_position_alone", draws_depend_on_seed_and_position_alone),
        case("sample/extreme_parameters", extreme_parameters),
        case("sample/infinite_logits_and_nan", infinite_logits_and_nan),
    ]
}

const GREEDY: LogitRow =
    LogitRow { token_row: 0, target: -1, temperature: 0.0, top_p: 1.0, top_k: 0, position: 0, seed: 0 };

/// One row to sample: its logits and how.
#[derive(Clone)]
struct Row {
    logits: Vec<f32>,
    how: LogitRow,
}

/// Runs the kernel over rows of one vocabulary. `slack` more rows of NaN lie behind the real ones, and results behind them must stay
/// as they were.
fn sample(device: &TestDevice, rows: &[Row], slack: usize, blocks: u32) -> Vec<LogitResult> {
    let vocabulary = rows.first().map_or(8, |row| row.logits.len());
    let mut logits: Vec<f32> = Vec::with_capacity((rows.len() + slack) * vocabulary);
    for row in rows {
        assert_eq!(row.logits.len(), vocabulary, "all rows have one vocabulary");
        logits.extend(&row.logits);
    }
    logits.resize((rows.len() + slack) * vocabulary, f32::NAN);
    let logits = device.upload(&logits);
    let results = device.poisoned::<LogitResult>(rows.len() + slack);
    let how: Vec<LogitRow> = rows.iter().map(|row| row.how).collect();
    let step = device.upload(&step_block(&[0], &how, slack, results.as_ptr() as u64));
    let parameters = SampleParameters {
        step: step.as_ptr().cast(),
        logits: logits.as_ptr(),
        vocabulary: vocabulary as u32,
        reserved: 0,
    };
    device
        .launch("sample_logits", blocks, GRIDPOINT_SAMPLE_THREADS, GRIDPOINT_SAMPLE_SHARED_BYTES, &parameters)
        .expect("sample_logits");
    let mut found = device.download(&results);
    for (row, result) in found.iter().enumerate().skip(rows.len()) {
        assert!(result.token == -1 && result.log_probability.is_nan(), "the result of padded row {row} was written");
    }
    found.truncate(rows.len());
    found
}

fn normal_logits(random: &mut Random, vocabulary: usize, scale: f64) -> Vec<f32> {
    (0..vocabulary).map(|_| (scale * random.normal()) as f32).collect()
}

// ---- references ---------------------------------------------------------------------------------------------------------------

/// Philox4x32-10 as Salmon et al. define it (SC 2011, section 3.3): rounds of a substitution network on 64-bit products.
pub(super) fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut c = counter.map(u64::from);
    let mut k = key.map(u64::from);
    for round in 0..10 {
        if round > 0 {
            k = [(k[0] + 0x9E37_79B9) & 0xffff_ffff, (k[1] + 0xBB67_AE85) & 0xffff_ffff];
        }
        let (left, right) = (c[0] * 0xD251_1F53, c[2] * 0xCD9E_8D57);
        c = [(right >> 32) ^ c[1] ^ k[0], right & 0xffff_ffff, (left >> 32) ^ c[3] ^ k[1], left & 0xffff_ffff];
    }
    c.map(|word| word as u32)
}

/// The noise of one token, in float64.
fn gumbel(seed: u64, position: u32, token: usize) -> f64 {
    let block = philox([position, token as u32 / 4, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let uniform = (f64::from(block[token % 4]) + 0.5) / 4_294_967_296.0;
    -(-(-uniform).ln_1p()).ln()
}

/// NaN counts as -infinity.
fn cleaned(logit: f32) -> f64 {
    if logit.is_nan() { f64::NEG_INFINITY } else { f64::from(logit) }
}

fn log_probability(logits: &[f32], token: usize) -> f64 {
    let highest = logits.iter().map(|&logit| cleaned(logit)).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|&logit| (cleaned(logit) - highest).exp()).sum();
    cleaned(logits[token]) - highest - sum.ln()
}

fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if cleaned(logit) > cleaned(logits[best]) {
            best = token;
        }
    }
    best
}

/// The tokens that the filters leave, with their probabilities, from a full sort; `shift` is added to top_p where that is on.
fn survivors(row: &Row, shift: f64) -> Vec<(usize, f64)> {
    let mut order: Vec<usize> = (0..row.logits.len()).collect();
    order.sort_by(|&a, &b| cleaned(row.logits[b]).total_cmp(&cleaned(row.logits[a])).then(a.cmp(&b)));
    let highest = cleaned(row.logits[order[0]]);
    if row.how.top_k > 0 {
        order.truncate(row.how.top_k as usize);
    }
    let weight = |token: usize| ((cleaned(row.logits[token]) - highest) / f64::from(row.how.temperature)).exp();
    let total: f64 = order.iter().map(|&token| weight(token)).sum();
    let reach = if row.how.top_p < 1.0 { total * (f64::from(row.how.top_p) + shift) } else { f64::INFINITY };
    let mut cumulated = 0.0;
    let mut kept = 0;
    while kept < order.len() && (kept == 0 || cumulated < reach) {
        cumulated += weight(order[kept]);
        kept += 1;
    }
    order[..kept].iter().map(|&token| (token, weight(token) / cumulated)).collect()
}

/// What must be drawn from these survivors, and by how much it wins.
fn winner(row: &Row, survivors: &[(usize, f64)]) -> (usize, f64) {
    let (mut winner, mut best, mut second) = (0, f64::NEG_INFINITY, f64::NEG_INFINITY);
    for &(token, _) in survivors {
        let candidate =
            cleaned(row.logits[token]) / f64::from(row.how.temperature) + gumbel(row.how.seed, row.how.position, token);
        if candidate > best {
            (winner, second, best) = (token, best, candidate);
        } else {
            second = second.max(candidate);
        }
    }
    (winner, best - second)
}

/// The token that must be drawn, or `None` where float32 may decide otherwise.
fn drawn(row: &Row) -> Option<usize> {
    let (fewest, margin) = winner(row, &survivors(row, -MASS_MARGIN));
    let (most, _) = winner(row, &survivors(row, MASS_MARGIN));
    (fewest == most && margin > DRAW_MARGIN).then_some(most)
}

/// float32 rounds logit - highest and the sum's logarithm, each to about 2^-24, and the exponentials to a few units.
fn assert_log_probability(found: f32, logits: &[f32], token: usize, what: &str) {
    let expected = log_probability(logits, token);
    if expected == f64::NEG_INFINITY {
        assert_eq!(found, f32::NEG_INFINITY, "{what}: log-probability of token {token}");
        return;
    }
    let difference = (f64::from(found) - expected).abs();
    assert!(
        difference <= 1e-6 * (1.0 + expected.abs()),
        "{what}: log-probability of token {token} is {found} instead of {expected}"
    );
}

/// Compares each row's draw with the reference; returns how many were too close to call.
fn assert_draws(found: &[LogitResult], rows: &[Row], what: &str) -> usize {
    let mut ambiguous = 0;
    for (r, (found, row)) in found.iter().zip(rows).enumerate() {
        let what = format!("{what}: row {r} ({:?})", row.how);
        let token = usize::try_from(found.token).ok().filter(|&token| token < row.logits.len());
        let token = token.unwrap_or_else(|| panic!("{what}: token {} is outside the vocabulary", found.token));
        assert_log_probability(found.log_probability, &row.logits, token, &what);
        match drawn(row) {
            None => ambiguous += 1,
            Some(expected) => assert_eq!(token, expected, "{what}"),
        }
    }
    ambiguous
}

// ---- cases --------------------------------------------------------------------------------------------------------------------

/// The vectors that the authors publish (Random123, kat_vectors: philox4x32 with 10 rounds). The kernel's own generator is held to
/// the same vectors where it is compiled.
fn philox_known_answers(_: &TestDevice) {
    let ones = u32::MAX;
    for (counter, key, expected) in [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ] {
        assert_eq!(philox(counter, key), expected, "counter {counter:x?}, key {key:x?}");
    }
}

fn greedy_and_scores_match_float64(device: &TestDevice) {
    let mut random = Random(10);
    for vocabulary in [8, 9, 63, 1003, 1024, 4099, 32000] {
        let mut rows = Vec::new();
        for (count, scale) in [1.0, 4.0, 30.0, 2000.0].into_iter().enumerate() {
            let logits = normal_logits(&mut random, vocabulary, scale);
            rows.push(Row { logits: logits.clone(), how: GREEDY });
            for target in [0, vocabulary - 1, random.below(vocabulary)] {
                // A target wins over every sampling parameter.
                let how = LogitRow { target: target as i32, temperature: count as f32, top_k: 2, top_p: 0.1, ..GREEDY };
                rows.push(Row { logits: logits.clone(), how });
            }
        }
        let found = sample(device, &rows, 0, 1);
        for (r, (result, row)) in found.iter().zip(&rows).enumerate() {
            let what = format!("vocabulary {vocabulary}, row {r}");
            let expected = usize::try_from(row.how.target).unwrap_or_else(|_| argmax(&row.logits));
            assert_eq!(result.token, expected as i32, "{what}");
            assert_log_probability(result.log_probability, &row.logits, expected, &what);
        }
        for (slack, blocks) in [(3, 1), (0, 5), (2, 40)] {
            let padded = sample(device, &rows, slack, blocks);
            for (r, (padded, exact)) in padded.iter().zip(&found).enumerate() {
                let same =
                    padded.token == exact.token && padded.log_probability.to_bits() == exact.log_probability.to_bits();
                assert!(
                    same,
                    "vocabulary {vocabulary}, row {r}: {slack} padded rows, {blocks} blocks: {padded:?} instead of {exact:?}"
                );
            }
        }
    }
    let logits = normal_logits(&mut random, 40, 1.0);
    let rows = [40, i32::MAX].map(|target| Row { logits: logits.clone(), how: LogitRow { target, ..GREEDY } });
    for (result, row) in sample(device, &rows, 0, 1).iter().zip(&rows) {
        assert!(
            result.token == row.how.target && result.log_probability.is_nan(),
            "a target outside the vocabulary: {result:?}"
        );
    }
}

fn large_vocabularies(device: &TestDevice) {
    let mut random = Random(11);
    let logits = normal_logits(&mut random, 128_256, 2.0);
    let filtered = LogitRow { temperature: 0.8, top_k: 1000, top_p: 0.9, position: 5, seed: 77, ..GREEDY };
    let nucleus = LogitRow { temperature: 1.3, top_p: 0.6, position: 6, seed: 78, ..GREEDY };
    let rows = [filtered, nucleus].map(|how| Row { logits: logits.clone(), how });
    let found = sample(device, &rows, 0, 2);
    assert_eq!(assert_draws(&found, &rows, "vocabulary 128256"), 0, "choose other seeds");
    // All of the largest vocabulary equal: no total of masses is larger, and all that stay are told apart by their ids.
    let how = LogitRow { temperature: 0.8, top_p: 0.02, position: 7, seed: 79, ..GREEDY };
    let rows = [Row { logits: vec![3.5; 1 << 22], how }];
    let found = sample(device, &rows, 0, 1);
    assert_eq!(assert_draws(&found, &rows, "vocabulary 2^22, all equal"), 0, "choose other seeds");
}

fn ties_go_to_the_smallest_id(device: &TestDevice) {
    let vocabulary = 5003;
    let mut rows = Vec::new();
    for ids in [vec![4999, 1024, 1025, 4097], vec![5002], vec![3, 2, 1, 0], vec![1030, 6], (0..vocabulary).collect()] {
        let mut logits = vec![-1.5_f32; vocabulary];
        ids.iter().for_each(|&id| logits[id] = 0.25);
        rows.push(Row { logits, how: GREEDY });
    }
    // Both zeros are equal.
    let mut logits = vec![-1.5_f32; vocabulary];
    (logits[700], logits[30]) = (0.0, -0.0);
    rows.push(Row { logits, how: GREEDY });
    let found: Vec<i32> = sample(device, &rows, 1, 2).iter().map(|result| result.token).collect();
    assert_eq!(found, [1024, 5002, 0, 6, 0, 30]);
}

fn draws_are_gumbel_max(device: &TestDevice) {
    let mut random = Random(12);
    let (mut ambiguous, mut total) = (0, 0);
    for (vocabulary, count) in [(8, 60), (61, 60), (1003, 40), (1024, 40), (5000, 12)] {
        let rows: Vec<Row> = (0..count)
            .map(|i| {
                let temperature = [0.2, 0.7, 1.0, 3.0][i % 4];
                let top_k = [0, 5, 40, 0, 3][i % 5].min(vocabulary as u32);
                let top_p = [1.0, 0.9, 0.5][i % 3];
                let how = LogitRow {
                    temperature,
                    top_k,
                    top_p,
                    position: random.bits() as u32,
                    seed: random.bits(),
                    ..GREEDY
                };
                Row { logits: normal_logits(&mut random, vocabulary, 2.0), how }
            })
            .collect();
        let found = sample(device, &rows, 1, 3);
        ambiguous += assert_draws(&found, &rows, &format!("vocabulary {vocabulary}"));
        total += count;
    }
    assert!(ambiguous * 50 <= total, "{ambiguous} of {total} draws were too close to call");
}

/// Tokens far below the best one are drawn as often as they should be: 50000 at e^-9 outweigh it six to one.
fn draws_reach_the_tail(device: &TestDevice) {
    let mut logits = vec![-9.0_f32; 50_000];
    logits[31_234] = 0.0;
    let row = Row { logits, how: LogitRow { temperature: 1.0, seed: 12, ..GREEDY } };
    let rows: Vec<Row> = (0..8).map(|position| Row { how: LogitRow { position, ..row.how }, ..row.clone() }).collect();
    let found = sample(device, &rows, 0, 3);
    assert!(assert_draws(&found, &rows, "a heavy tail") <= 1, "choose other seeds");
    assert!(found.iter().any(|result| result.token != 31_234), "the tail was never drawn: {found:?}");
    // Why a token 26 below the best is never worth its noise: all noise lies closer together than that.
    let noise = |uniform: f64| -(-(-uniform).ln_1p()).ln();
    let span = noise(1.0 - f64::exp2(-24.0))..noise(f64::exp2(-33.0));
    assert!(span.start > -2.82 && span.end < 22.88 && (0.0..26.0).contains(&(span.start.abs() + span.end)), "{span:?}");
}

/// Draws `count` times from the same row at consecutive positions, checks each draw, and returns how often each token came.
fn histogram(device: &TestDevice, row: &Row, count: u32, what: &str) -> Vec<u32> {
    let rows: Vec<Row> = (0..count).map(|i| Row { how: LogitRow { position: i, ..row.how }, ..row.clone() }).collect();
    let found = sample(device, &rows, 0, 7);
    let ambiguous = assert_draws(&found, &rows, what);
    assert!(ambiguous as u32 * 50 <= count, "{what}: {ambiguous} of {count} draws were too close to call");
    let mut times = vec![0; row.logits.len()];
    found.iter().for_each(|result| times[result.token as usize] += 1);
    times
}

/// The tokens that occur in enough draws are exactly the survivors.
fn assert_survivors(device: &TestDevice, row: &Row, expected: &[usize], what: &str) {
    let mut sorted: Vec<usize> = survivors(row, 0.0).iter().map(|&(token, _)| token).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, expected, "{what}: the reference");
    let times = histogram(device, row, 20 * expected.len() as u32, what);
    let found: Vec<usize> = (0..times.len()).filter(|&token| times[token] > 0).collect();
    assert_eq!(found, expected, "{what}");
}

fn filters_keep_exactly_their_set(device: &TestDevice) {
    // Probabilities 0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05 in shuffled places, the rest of the vocabulary negligible.
    let vocabulary = 300;
    let mut logits = vec![-60.0_f32; vocabulary];
    let placed = [(17, 0.3), (290, 0.2), (4, 0.15), (150, 0.1), (151, 0.1), (0, 0.05), (299, 0.05), (256, 0.05)];
    placed.iter().for_each(|&(token, probability)| logits[token] = f64::ln(probability) as f32);
    let row = |top_k, top_p| Row {
        logits: logits.clone(),
        how: LogitRow { temperature: 1.0, top_k, top_p, seed: 9, ..GREEDY },
    };
    for (top_k, top_p, expected) in [
        (2, 1.0, vec![17, 290]),
        (3, 1.0, vec![4, 17, 290]),
        // The tokens that reach 0.49 and 0.51.
        (0, 0.49, vec![17, 290]),
        (0, 0.51, vec![4, 17, 290]),
        (0, 0.66, vec![4, 17, 150, 290]),
        (0, 0.84, vec![4, 17, 150, 151, 290]),
        (0, 0.999, vec![0, 4, 17, 150, 151, 256, 290, 299]),
        // Over the three of top-k, 0.3 and 0.2 are 0.46 and 0.31.
        (3, 0.45, vec![17]),
        (3, 0.76, vec![17, 290]),
        (3, 0.78, vec![4, 17, 290]),
        // Top-k cuts between the two of 0.1; the four that stay have 0.75 together.
        (4, 0.85, vec![4, 17, 290]),
        (4, 0.88, vec![4, 17, 150, 290]),
    ] {
        assert_survivors(device, &row(top_k, top_p), &expected, &format!("top_k {top_k}, top_p {top_p}"));
    }
}

fn filters_resolve_ties_by_id(device: &TestDevice) {
    let vocabulary = 1100;
    // 40 tokens share the largest logit, but for three above them.
    let tied: Vec<usize> = (0..40).map(|i| 37 + 27 * i).collect();
    let mut logits = vec![-50.0_f32; vocabulary];
    tied.iter().for_each(|&token| logits[token] = 1.0);
    let above = [1099, 20, 1000];
    above.iter().for_each(|&token| logits[token] = 1.25);
    let expected = |count: usize| {
        let mut tokens: Vec<usize> = above.iter().copied().chain(tied[..count].iter().copied()).collect();
        tokens.sort_unstable();
        tokens
    };
    for count in [1, 7] {
        let how = LogitRow { temperature: 1.0, top_k: 3 + count as u32, seed: 31, ..GREEDY };
        assert_survivors(
            device,
            &Row { logits: logits.clone(), how },
            &expected(count),
            &format!("{count} ties within top-k"),
        );
        // The weight that the three and count - 1/2 of their ties hold.
        let share = |tokens: f64| 3.0 * f64::exp(0.25) + tokens;
        let top_p = (share(count as f64 - 0.5) / share(40.0)) as f32;
        let how = LogitRow { temperature: 1.0, top_p, seed: 32, ..GREEDY };
        assert_survivors(
            device,
            &Row { logits: logits.clone(), how },
            &expected(count),
            &format!("{count} ties within top-p"),
        );
        // Top-k leaves 20 ties, top-p fewer.
        let top_p = (share(count as f64 - 0.5) / share(20.0)) as f32;
        let how = LogitRow { temperature: 1.0, top_p, top_k: 23, seed: 33, ..GREEDY };
        assert_survivors(
            device,
            &Row { logits: logits.clone(), how },
            &expected(count),
            &format!("{count} ties within top-k and top-p"),
        );
    }
    // Top-p takes all that top-k left, which is not all that tie.
    let how = LogitRow { temperature: 1.0, top_p: 0.999, top_k: 8, seed: 34, ..GREEDY };
    assert_survivors(device, &Row { logits, how }, &expected(5), "ties that only top-k cuts");
}

/// Pearson's statistic of `times` against the probabilities.
fn chi_square(times: &[u32], probabilities: &[(usize, f64)]) -> f64 {
    let count: f64 = times.iter().map(|&times| f64::from(times)).sum();
    probabilities
        .iter()
        .map(|&(token, probability)| {
            let expected = count * probability;
            (f64::from(times[token]) - expected).powi(2) / expected
        })
        .sum()
}

fn draws_follow_the_distribution(device: &TestDevice) {
    let mut random = Random(14);
    let logits = normal_logits(&mut random, 13, 0.7);
    for (top_k, top_p, count) in [(0, 1.0, 2000), (6, 1.0, 600), (0, 0.8, 600)] {
        let row = Row { logits: logits.clone(), how: LogitRow { temperature: 1.3, top_k, top_p, seed: 4, ..GREEDY } };
        let what = format!("top_k {top_k}, top_p {top_p}");
        let times = histogram(device, &row, count, &what);
        let right = chi_square(&times, &survivors(&row, 0.0));
        // 12 degrees of freedom exceed 39 once in 10^4, fewer do so less often.
        assert!(right < 39.0, "{what}: chi-square is {right}: {times:?}");
        // The statistic can tell: the same draws are not those of another temperature.
        let other = Row { how: LogitRow { temperature: 0.4, top_p: 1.0, ..row.how }, ..row };
        let other = chi_square(&times, &survivors(&other, 0.0));
        assert!(other > 39.0, "{what}: chi-square against another temperature is only {other}");
    }
}

fn draws_depend_on_seed_and_position_alone(device: &TestDevice) {
    let mut random = Random(15);
    let vocabulary = 1003;
    let row = |random: &mut Random| {
        let how = LogitRow {
            temperature: 2.0,
            top_k: [0, 50][random.below(2)],
            top_p: [1.0, 0.95][random.below(2)],
            position: random.below(100) as u32,
            seed: random.bits(),
            ..GREEDY
        };
        Row { logits: normal_logits(random, vocabulary, 1.0), how }
    };
    let rows: Vec<Row> = (0..24).map(|_| row(&mut random)).collect();
    let alone: Vec<LogitResult> = rows.iter().map(|row| sample(device, std::slice::from_ref(row), 0, 1)[0]).collect();
    for (shift, slack, blocks) in [(0, 0, 24), (1, 3, 5), (7, 1, 1)] {
        // Other rows in front move each row to another place, at another alignment.
        let batch: Vec<Row> = (0..shift).map(|_| row(&mut random)).chain(rows.iter().rev().cloned()).collect();
        let found = sample(device, &batch, slack, blocks);
        for (r, (found, alone)) in found[shift..].iter().rev().zip(&alone).enumerate() {
            let same = found.token == alone.token && found.log_probability.to_bits() == alone.log_probability.to_bits();
            assert!(same, "row {r}, moved by {shift}, {blocks} blocks: {found:?} instead of {alone:?}");
        }
    }
    // Seed and position do matter, in all their bits.
    let flat = Row { logits: vec![0.0; vocabulary], how: LogitRow { temperature: 1.0, ..GREEDY } };
    let mut different: Vec<Row> = vec![flat.clone()];
    different.extend((0..64).map(|bit| Row { how: LogitRow { seed: 1 << bit, ..flat.how }, ..flat.clone() }));
    different.extend((0..32).map(|bit| Row { how: LogitRow { position: 1 << bit, ..flat.how }, ..flat.clone() }));
    let mut tokens: Vec<i32> = sample(device, &different, 0, 4).iter().map(|result| result.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert!(tokens.len() > 80, "97 draws of 1003 equal tokens gave {} different ones", tokens.len());
}

fn extreme_parameters(device: &TestDevice) {
    let mut random = Random(16);
    let vocabulary = 515;
    let mut logits = normal_logits(&mut random, vocabulary, 3.0);
    // No two within 0.01 of the top, so that a temperature of 1e-6 leaves no choice.
    let best = argmax(&logits);
    logits[best] += 0.01;
    // And tied with the best, behind it: greedy's choice is that of top_k 1 also among ties.
    let mut tied = logits.clone();
    tied[best.max(1) - 1] = tied[best];
    for (logits, temperatures) in [(&logits, vec![1e-6, 1e-30, 1e-45, 0.5]), (&tied, vec![0.5, 1e6])] {
        for temperature in temperatures {
            for (top_k, top_p) in [(1, 1.0), (0, 1e-6), (0, 0.0), (0, -1.0), (3, 1e-9), (0, 1.0)] {
                if (top_k, top_p) == (0, 1.0) && temperature > 1e-3 {
                    continue;
                }
                let rows: Vec<Row> = (0..6)
                    .map(|position| Row {
                        logits: logits.clone(),
                        how: LogitRow { temperature, top_k, top_p, position, seed: 3, ..GREEDY },
                    })
                    .collect();
                for result in sample(device, &rows, 0, 2) {
                    let what = format!("temperature {temperature}, top_k {top_k}, top_p {top_p}");
                    assert_eq!(result.token, argmax(logits) as i32, "{what}");
                    assert_log_probability(result.log_probability, logits, argmax(logits), &what);
                }
            }
        }
    }
    // A great temperature levels all logits; filters that take everything are off; negative temperatures and NaN are greedy.
    let level: Vec<Row> = (0..40)
        .map(|position| {
            let top_k = [0, vocabulary as u32, u32::MAX][position as usize % 3];
            let top_p = [1.0, f32::NAN, 2.0][position as usize / 3 % 3];
            Row {
                logits: logits.clone(),
                how: LogitRow { temperature: 1e6, top_k, top_p, position, seed: 8, ..GREEDY },
            }
        })
        .collect();
    let found = sample(device, &level, 0, 3);
    assert!(assert_draws(&found, &level, "temperature 1e6") <= 1, "choose other seeds");
    let greedy =
        [-1.0, f32::NAN].map(|temperature| Row { logits: logits.clone(), how: LogitRow { temperature, ..GREEDY } });
    assert!(
        sample(device, &greedy, 0, 1).iter().all(|result| result.token == argmax(&logits) as i32),
        "temperatures below 0 and NaN"
    );
    let infinite = Row {
        logits: vec![1.0, 2.0, f32::NEG_INFINITY, 0.0, 5.0, 1.0, 1.0, 1.0],
        how: LogitRow { temperature: f32::INFINITY, ..GREEDY },
    };
    let rows: Vec<Row> =
        (0..100).map(|position| Row { how: LogitRow { position, ..infinite.how }, ..infinite.clone() }).collect();
    let found = sample(device, &rows, 0, 1);
    assert!(
        found.iter().all(|result| (0..8).contains(&result.token) && result.token != 2),
        "an infinite temperature: {found:?}"
    );
}

fn infinite_logits_and_nan(device: &TestDevice) {
    let vocabulary = 1003;
    let every = [
        GREEDY,
        LogitRow { temperature: 1.0, ..GREEDY },
        LogitRow { temperature: 1.0, top_k: 40, ..GREEDY },
        LogitRow { temperature: 1.0, top_p: 0.9, ..GREEDY },
        LogitRow { temperature: 50.0, top_k: 400, top_p: 0.999, ..GREEDY },
    ];
    let run = |logits: &[f32]| {
        let rows: Vec<Row> = (0..50)
            .map(|i| Row { logits: logits.to_vec(), how: LogitRow { position: i as u32, ..every[i % every.len()] } })
            .collect();
        let found = sample(device, &rows, 1, 3);
        (rows, found)
    };
    for nothing in [f32::NAN, -f32::NAN, f32::NEG_INFINITY] {
        let (_, found) = run(&vec![nothing; vocabulary]);
        let wrong = found.iter().position(|result| result.token != 0 || !result.log_probability.is_nan());
        assert_eq!(wrong, None, "all logits are {nothing}");
    }
    // Only a few finite logits: the others are never drawn, whatever the filters.
    let finite = [(1, -3.0_f32), (500, 2.0), (1000, 1.0), (1002, 1.5)];
    for nothing in [f32::NAN, -f32::NAN, f32::NEG_INFINITY] {
        let mut logits = vec![nothing; vocabulary];
        finite.iter().for_each(|&(token, logit)| logits[token] = logit);
        let (rows, found) = run(&logits);
        for (r, (result, row)) in found.iter().zip(&rows).enumerate() {
            let what = format!("{nothing} but for four, row {r}");
            assert!(finite.iter().any(|&(token, _)| token as i32 == result.token), "{what}: {result:?}");
            assert_log_probability(result.log_probability, &row.logits, result.token as usize, &what);
        }
        let target = Row { logits, how: LogitRow { target: 7, ..GREEDY } };
        assert_eq!(sample(device, &[target], 0, 1)[0].log_probability, f32::NEG_INFINITY, "the score of {nothing}");
    }
    // Two tokens at +infinity share the probability.
    let mut logits = vec![0.5_f32; vocabulary];
    (logits[300], logits[801]) = (f32::INFINITY, f32::INFINITY);
    logits[4] = f32::NAN;
    let (rows, found) = run(&logits);
    for (r, (result, row)) in found.iter().zip(&rows).enumerate() {
        let allowed: &[i32] = if row.how.temperature == 0.0 { &[300] } else { &[300, 801] };
        assert!(allowed.contains(&result.token), "two infinite logits, row {r}: {result:?}");
        assert!(
            (result.log_probability + std::f32::consts::LN_2).abs() < 1e-6,
            "two infinite logits, row {r}: {result:?}"
        );
    }
}
