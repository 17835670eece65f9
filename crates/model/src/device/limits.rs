//! What the kernels can count to: every product of sizes that one of them holds in 32 bits, in one place.
//!
//! Offsets of elements are 64 bits wide in every kernel (kernels/*.cu), so memory sets their limits. What is listed here is counted in 32
//! bits: work units that a grid walks, rows and slots that the step block names, and the sizes that a kernel's header states. A walk adds
//! its grid to an index before it compares, so that an index must stay 2^31 below the top of 32 bits: no grid has more threads than that.

use gridpoint_runtime::parameters::GRIDPOINT_PAGE_TOKENS;

use super::memory::Capacity;
use super::products::GemmTile;
use crate::config::ModelConfig;

/// The step block's numbers are `int32_t` (kernels/step.h).
const SIGNED: u64 = i32::MAX as u64;
/// An index to which a grid's stride can be added.
const WALKED: u64 = 1 << 31;
/// Elements of a row that a block normalises (kernels/norm.cu).
const NORM_WIDTH: u64 = 65_536;
/// Logits of a row whose mass fits 64 bits of fixed point (kernels/sample.cu).
const SAMPLED: u64 = 1 << 23;
/// Query heads of a key-value head (kernels/attention.cu).
const GROUP: u64 = 16;

/// A model or a capacity of which a kernel would count past its index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` would be `{value}`, the kernels count it to at most {limit}; {remedy}")]
pub struct LimitError {
    /// What is counted, and by which kernel.
    pub name: &'static str,
    /// How much of it the largest step has.
    pub value: u64,
    /// The most that the kernels count.
    pub limit: u64,
    /// What would be right.
    pub remedy: &'static str,
}

const FEWER_TOKENS: &str = "fewer tokens in a step fit";
const FEWER_REQUESTS: &str = "fewer requests or shorter sequences fit";
const FEWER_LOGITS: &str = "fewer logit rows in a step fit";
const FEWER_PAGES: &str = "fewer pages of the kv cache fit";
const SHORTER: &str = "shorter sequences fit";
const OTHER_MODEL: &str = "no kernel is made for such a model";

/// The capacities alone: they bound the factors of everything else.
fn capacities(capacity: &Capacity) -> [LimitError; 5] {
    let Capacity { tokens, requests, logit_rows, sequence_length, pages } = *capacity;
    let slots = u64::from(pages) * u64::from(GRIDPOINT_PAGE_TOKENS);
    [
        LimitError { name: "tokens of a step", value: tokens.into(), limit: SIGNED, remedy: FEWER_TOKENS },
        LimitError { name: "requests of a step", value: requests.into(), limit: SIGNED, remedy: FEWER_REQUESTS },
        LimitError { name: "logit rows of a step", value: logit_rows.into(), limit: SIGNED, remedy: FEWER_LOGITS },
        LimitError { name: "tokens of a sequence", value: sequence_length.into(), limit: SIGNED, remedy: SHORTER },
        // The greatest slot is one less.
        LimitError { name: "slots of the kv cache", value: slots, limit: SIGNED + 1, remedy: FEWER_PAGES },
    ]
}

/// The model's sizes, and their products with the capacities. Factors are below 2^32 by the types and 2^23 by [`ModelConfig`], so that
/// no product leaves 64 bits.
fn products(config: &ModelConfig, capacity: &Capacity) -> [LimitError; 11] {
    let [hidden, intermediate, vocabulary, kv_heads, qkv, group] = [
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
        config.num_key_value_heads,
        config.qkv_size(),
        config.group_size(),
    ]
    .map(|size| size as u64);
    let (tokens, requests) = (u64::from(capacity.tokens), u64::from(capacity.requests));
    let work_items = capacity.work_items(group);
    let walked = |name, value, remedy| LimitError { name, value, limit: WALKED, remedy };
    let model = |name, value, limit| LimitError { name, value, limit, remedy: OTHER_MODEL };
    let tiles = |rows, columns: u64| most_tiles(rows, u32::try_from(columns).unwrap_or(u32::MAX));
    let token_tiles = |name, columns| walked(name, tiles(capacity.tokens, columns), FEWER_TOKENS);
    [
        model("hidden_size of norm.cu", hidden, NORM_WIDTH),
        model("vocab_size of sample.cu", vocabulary, SAMPLED),
        model("query heads for each key-value head of attention.cu", group, GROUP),
        walked("query rows of schedule.cu, tokens x group", tokens * group, FEWER_TOKENS),
        LimitError {
            name: "partial results of attention.cu",
            value: capacity.partials(),
            limit: u32::MAX.into(),
            remedy: FEWER_REQUESTS,
        },
        walked("work of attention.cu, items x key-value heads", work_items * kv_heads, FEWER_REQUESTS),
        walked("arrival counters of schedule.cu, requests x key-value heads", requests * kv_heads, FEWER_REQUESTS),
        token_tiles("output tiles of gemm.cu in the qkv product", qkv),
        token_tiles("output tiles of gemm.cu in the output and down products", hidden),
        token_tiles("output tiles of gemm.cu in the gate-up product", 2 * intermediate),
        walked("output tiles of gemm.cu in the head", tiles(capacity.logit_rows, vocabulary), FEWER_LOGITS),
    ]
}

/// Output tiles of a product by whichever tile a device of any size takes: none is smaller than 64 x 64.
fn most_tiles(rows: u32, columns: u32) -> u64 {
    GemmTile::Rows64Columns64.count(rows, columns)
}

/// Checks that no kernel's index overflows in the largest step of `capacity`.
///
/// # Errors
/// The first count that is too large.
pub(crate) fn check(config: &ModelConfig, capacity: &Capacity) -> Result<(), LimitError> {
    let first = |limits: &[LimitError]| limits.iter().find(|one| one.value > one.limit).cloned();
    match first(&capacities(capacity)).or_else(|| first(&products(config, capacity))) {
        Some(exceeded) => Err(exceeded),
        None => Ok(()),
    }
}

/// Checks that rows of a layer's keys, which tensor copies name by signed coordinates, can be counted (kernels/attention_hopper.cu).
///
/// # Errors
/// Too many of them.
pub(crate) fn check_maps(config: &ModelConfig, capacity: &Capacity) -> Result<(), LimitError> {
    let slots = u64::from(capacity.pages) * u64::from(GRIDPOINT_PAGE_TOKENS);
    let rows = LimitError {
        name: "rows of keys of attention_hopper.cu, slots x key-value heads",
        value: slots * config.num_key_value_heads as u64,
        limit: SIGNED + 1,
        remedy: FEWER_PAGES,
    };
    if rows.value > rows.limit { Err(rows) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of these query heads, key-value heads of 64 elements, and sizes.
    fn config(heads: usize, kv_heads: usize, hidden: usize, intermediate: usize, vocabulary: usize) -> ModelConfig {
        ModelConfig::from_json(&format!(
            r#"{{"model_type": "llama", "hidden_size": {hidden}, "intermediate_size": {intermediate}, "num_hidden_layers": 2,
                "num_attention_heads": {heads}, "num_key_value_heads": {kv_heads}, "head_dim": 64, "vocab_size": {vocabulary},
                "max_position_embeddings": 16777216}}"#
        ))
        .unwrap_or_else(|error| panic!("{error}"))
    }

    fn small() -> ModelConfig {
        config(1, 1, 64, 64, 512)
    }

    const CAPACITY: Capacity = Capacity { tokens: 64, requests: 8, logit_rows: 8, sequence_length: 1024, pages: 64 };

    /// What stands at a limit passes, and one more is refused by this name, value and limit.
    fn holds(config: &ModelConfig, at: Capacity, above: Capacity, name: &str, value: u64, limit: u64) {
        assert_eq!(check(config, &at), Ok(()), "{name}, at the limit");
        match check(config, &above) {
            Err(LimitError { name: found, value: above, limit: most, .. }) => {
                assert_eq!((found, above, most), (name, value, limit));
            }
            Ok(()) => panic!("`{name}` above the limit passes"),
        }
    }

    fn tokens(tokens: u32) -> Capacity {
        Capacity { tokens, ..CAPACITY }
    }

    #[test]
    fn what_the_step_block_names_is_signed() {
        // A step's tokens are bounded earlier by output tiles.
        let few = |tokens| capacities(&Capacity { tokens, ..CAPACITY })[0].clone();
        assert_eq!(few(1 << 31), LimitError { value: 1 << 31, ..few(0) });
        assert_eq!(few(0).limit, (1 << 31) - 1);
        let most = i32::MAX as u32;
        let above = most + 1;
        let sequence = |sequence_length| Capacity { sequence_length, ..CAPACITY };
        holds(&small(), sequence(most), sequence(above), "tokens of a sequence", above.into(), most.into());
        let logits = |logit_rows| Capacity { logit_rows, ..CAPACITY };
        holds(&small(), logits(most), logits(above), "logit rows of a step", above.into(), most.into());
        // A request of one token and one page.
        let requests = |requests| Capacity { requests, sequence_length: 1, pages: 1, tokens: 1, ..CAPACITY };
        assert_eq!(check(&small(), &requests(most / 2)), Ok(()));
        let refused = check(&small(), &requests(above)).map_err(|error| error.name);
        assert_eq!(refused, Err("requests of a step"));
    }

    #[test]
    fn slots_of_the_cache_are_signed() {
        let pages = |pages| Capacity { pages, ..CAPACITY };
        holds(&small(), pages(1 << 25), pages((1 << 25) + 1), "slots of the kv cache", (1 << 31) + 64, 1 << 31);
    }

    #[test]
    fn rows_of_keys_are_signed() {
        let eight_heads = config(8, 8, 64, 64, 512);
        let pages = |pages| check_maps(&eight_heads, &Capacity { pages, ..CAPACITY });
        assert_eq!(pages(1 << 22), Ok(()));
        assert_eq!(
            pages((1 << 22) + 1).expect_err("too many").to_string(),
            "`rows of keys of attention_hopper.cu, slots x key-value heads` would be `2147484160`, the kernels count it to at most \
             2147483648; fewer pages of the kv cache fit"
        );
    }

    #[test]
    fn attention_counts_items_for_each_head() {
        let name = "work of attention.cu, items x key-value heads";
        // No tokens to tile, sequences of one chunk: two items a request, one of them its partial.
        let config = config(1024, 1024, 64, 64, 512);
        let requests = |requests| Capacity { tokens: 1, requests, sequence_length: 512, pages: 1 << 25, ..CAPACITY };
        holds(&config, requests(1 << 20), requests((1 << 20) + 1), name, ((1 << 21) + 2) << 10, 1 << 31);
        // Counters are fewer than items in every capacity, and are listed all the same.
        let counters = products(&config, &requests((1 << 21) + 1))[6].clone();
        assert_eq!((counters.value, counters.limit), (((1 << 21) + 1) << 10, 1 << 31));
    }

    #[test]
    fn partials_fit_32_bits() {
        let name = "partial results of attention.cu";
        let capacity =
            |sequence_length| Capacity { tokens: 1, requests: 1 << 28, sequence_length, pages: 1 << 25, ..CAPACITY };
        // Bounded by the pages: never above 32 bits while pages and requests are signed.
        assert!(capacity(1 << 24).partials() < u64::from(u32::MAX));
        let listed = products(&small(), &capacity(1 << 24))[4].clone();
        assert_eq!((listed.name, listed.limit), (name, u32::MAX.into()));
    }

    #[test]
    fn tiles_of_products_are_walked() {
        // 2^15 columns of tiles of 64: 2^16 rows of them are 2^31 tiles.
        let wide = config(1, 1, 64, 1 << 20, 512);
        let name = "output tiles of gemm.cu in the gate-up product";
        holds(&wide, tokens(1 << 22), tokens((1 << 22) + 1), name, ((1 << 16) + 1) << 15, 1 << 31);
        let many = config(1, 1, 64, 64, 1 << 22);
        let logits = |logit_rows| Capacity { logit_rows, ..CAPACITY };
        let name = "output tiles of gemm.cu in the head";
        holds(&many, logits(1 << 21), logits((1 << 21) + 1), name, ((1 << 15) + 1) << 16, 1 << 31);
        assert_eq!(most_tiles(64, 128), 2);
        assert_eq!(most_tiles(65, 129), 6);
    }

    #[test]
    fn sizes_that_no_kernel_takes_are_named() {
        let refused = |change: fn(&mut ModelConfig)| {
            let mut config = small();
            change(&mut config);
            check(&config, &CAPACITY).map_err(|error| (error.name, error.value, error.limit))
        };
        assert_eq!(refused(|config| config.hidden_size = 65_536), Ok(()));
        assert_eq!(refused(|config| config.hidden_size = 65_537), Err(("hidden_size of norm.cu", 65_537, 65_536)));
        assert_eq!(refused(|config| config.vocab_size = 1 << 23), Ok(()));
        assert_eq!(
            refused(|config| config.vocab_size = (1 << 23) + 1),
            Err(("vocab_size of sample.cu", (1 << 23) + 1, 1 << 23))
        );
        assert_eq!(refused(|config| config.num_attention_heads = 16), Ok(()));
        assert_eq!(
            refused(|config| config.num_attention_heads = 17),
            Err(("query heads for each key-value head of attention.cu", 17, 16))
        );
    }

    /// Real sizes are far from every limit.
    #[test]
    fn the_largest_models_pass() {
        // 128 query heads and 8 of keys and values, as Llama-3.1-405B has, at steps of 65536 tokens.
        let config = config(128, 8, 16_384, 53_248, 128_256);
        let capacity =
            Capacity { tokens: 65_536, requests: 4096, logit_rows: 4096, sequence_length: 131_072, pages: 1 << 20 };
        assert_eq!(check(&config, &capacity), Ok(()));
    }

    #[test]
    fn the_sentence_has_name_value_limit_and_remedy() {
        let error = check(&small(), &Capacity { pages: (1 << 25) + 1, ..CAPACITY }).expect_err("too many pages");
        assert_eq!(
            error.to_string(),
            "`slots of the kv cache` would be `2147483712`, the kernels count it to at most 2147483648; fewer pages of the kv cache fit"
        );
    }
}
