//! The page of launches that makes a step.

use gridpoint_plan::GridPoint;
use gridpoint_runtime::parameters::{GRIDPOINT_ROWS_LOGITS, GRIDPOINT_ROWS_TOKENS};
use gridpoint_runtime::{Launches, StepAddress};

use super::kernels::Epilogue;
use super::launches::{Product, Rows};
use super::model::{Addresses, Model};

impl Model {
    /// The launches of a step of `point` that reads everything which varies from the block at `step`: eight a layer, and five. The
    /// first depends wholly on what the stream held before it, the others on each other as the kernels' [`super::LaunchOrder`] says.
    #[must_use]
    pub fn record(&self, point: GridPoint, step: StepAddress) -> Launches {
        let tokens = Rows { selector: GRIDPOINT_ROWS_TOKENS, capacity: point.tokens };
        let requests = u32::try_from(point.requests()).unwrap_or(u32::MAX);
        let logit_rows = Rows { selector: GRIDPOINT_ROWS_LOGITS, capacity: requests };
        let Addresses { stream, normed, qkv, attended, gated, head_input, logits, .. } = self.addresses();
        let [hidden, intermediate, query] =
            [self.config.hidden_size, self.config.intermediate_size, self.config.query_size()];
        let weights = self.tensors();
        let null = std::ptr::null();

        let mut launches = Launches::new();
        let list = &mut launches;
        self.schedule(list, step);
        self.embedding(list, step, tokens, weights.embed_tokens, stream);
        for (layer, weights) in weights.layers.iter().enumerate() {
            self.norm(list, step, tokens, stream, weights.input_layernorm, normed);
            self.gemm(
                list,
                step,
                Product {
                    rows: tokens,
                    epilogue: if weights.qkv_bias.is_some() { Epilogue::Bias } else { Epilogue::Plain },
                    input: normed,
                    weights: weights.qkv,
                    bias: weights.qkv_bias.unwrap_or(null),
                    residual: null,
                    output: qkv.cast(),
                    n: self.config.qkv_size(),
                    k: hidden,
                },
            );
            self.rope_append(list, step, tokens, layer);
            self.attention(list, step, layer);
            self.gemm(
                list,
                step,
                Product {
                    rows: tokens,
                    epilogue: if weights.o_bias.is_some() { Epilogue::BiasResidual } else { Epilogue::Residual },
                    input: attended,
                    weights: weights.o_proj,
                    bias: weights.o_bias.unwrap_or(null),
                    residual: stream,
                    output: stream.cast(),
                    n: hidden,
                    k: query,
                },
            );
            self.norm(list, step, tokens, stream, weights.post_attention_layernorm, normed);
            self.gemm(
                list,
                step,
                Product {
                    rows: tokens,
                    epilogue: Epilogue::SwiGlu,
                    input: normed,
                    weights: weights.gate_up,
                    bias: null,
                    residual: null,
                    output: gated.cast(),
                    n: 2 * intermediate,
                    k: hidden,
                },
            );
            self.gemm(
                list,
                step,
                Product {
                    rows: tokens,
                    epilogue: Epilogue::Residual,
                    input: gated,
                    weights: weights.down_proj,
                    bias: null,
                    residual: stream,
                    output: stream.cast(),
                    n: hidden,
                    k: intermediate,
                },
            );
        }
        self.norm(list, step, logit_rows, stream, weights.norm, head_input);
        self.gemm(
            list,
            step,
            Product {
                rows: logit_rows,
                epilogue: Epilogue::PlainFloat,
                input: head_input,
                weights: weights.lm_head,
                bias: null,
                residual: null,
                output: logits.cast(),
                n: self.config.vocab_size,
                k: hidden,
            },
        );
        self.sample(list, step, logit_rows);
        self.kernels.order.of_step(launches)
    }
}
