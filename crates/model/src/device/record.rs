//! The page of launches that makes a step.

use gridpoint_plan::GridPoint;
use gridpoint_runtime::parameters::{GRIDPOINT_ROWS_LOGITS, GRIDPOINT_ROWS_TOKENS};
use gridpoint_runtime::{Launches, RuntimeError, StepAddress};

use super::launches::Rows;
use super::model::{Addresses, Model};
use super::products::{Output, Product};

impl Model {
    /// The launches of a step of `point` that reads everything which varies from the block at `step`: five a layer where the products compute
    /// their rows' scales, else seven, and five. The first depends wholly on what the stream held before it, the others on each other as
    /// the kernels' [`super::LaunchOrder`] says.
    ///
    /// # Errors
    /// The driver's error for a tensor map.
    pub fn record(&self, point: GridPoint, step: StepAddress) -> Result<Launches, RuntimeError> {
        let tokens = Rows { selector: GRIDPOINT_ROWS_TOKENS, capacity: point.tokens };
        // Blocks for a row of each request, walked by more where prompts are scored.
        let requests = u32::try_from(point.requests()).unwrap_or(u32::MAX);
        let logit_rows = Rows { selector: GRIDPOINT_ROWS_LOGITS, capacity: requests };
        let Addresses { stream, queries, attended, gated, head_input, logits, .. } = self.addresses();
        let [hidden, intermediate, query] =
            [self.config.hidden_size, self.config.intermediate_size, self.config.query_size()];
        let weights = self.tensors();
        let null = std::ptr::null();

        let mut launches = Launches::new();
        let list = &mut launches;
        self.schedule(list, step);
        self.embedding(list, step, tokens, weights.embed_tokens, stream);
        for (layer, weights) in weights.layers.iter().enumerate() {
            self.product(
                list,
                step,
                &Product {
                    rows: tokens,
                    input: stream,
                    weights: weights.qkv,
                    bias: weights.qkv_bias.unwrap_or(null),
                    n: self.config.qkv_size(),
                    k: hidden,
                    normalised: true,
                    output: Output::Heads { queries, layer },
                },
            )?;
            self.attention(list, step, layer);
            self.product(
                list,
                step,
                &Product {
                    rows: tokens,
                    input: attended,
                    weights: weights.o_proj,
                    bias: weights.o_bias.unwrap_or(null),
                    n: hidden,
                    k: query,
                    normalised: false,
                    output: Output::Stream(stream),
                },
            )?;
            self.product(
                list,
                step,
                &Product {
                    rows: tokens,
                    input: stream,
                    weights: weights.gate_up,
                    bias: null,
                    n: 2 * intermediate,
                    k: hidden,
                    normalised: true,
                    output: Output::Gated(gated),
                },
            )?;
            self.product(
                list,
                step,
                &Product {
                    rows: tokens,
                    input: gated,
                    weights: weights.down_proj,
                    bias: null,
                    n: hidden,
                    k: intermediate,
                    normalised: false,
                    output: Output::Stream(stream),
                },
            )?;
        }
        self.norm(list, step, logit_rows, stream, weights.norm, head_input);
        self.product(
            list,
            step,
            &Product {
                rows: Rows { capacity: self.head_rows(point), ..logit_rows },
                input: head_input,
                weights: weights.lm_head,
                bias: null,
                n: self.config.vocab_size,
                k: hidden,
                normalised: false,
                output: Output::Logits(logits),
            },
        )?;
        self.sample(list, step, logit_rows);
        Ok(self.kernels.order.of_step(launches))
    }

    /// The most rows of the language-model head in a step of `point`: every token of a prompt that is scored has one.
    pub(crate) fn head_rows(&self, point: GridPoint) -> u32 {
        point.tokens.min(self.capacity().logit_rows)
    }
}
