//! The steps whose speed is stated, and how they belong together.

use gridpoint_plan::{GridPoint, StepShape};

use crate::rig::{RigShape, Sampling};

/// What a case is measured against, beside other implementations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Relation {
    /// Nothing.
    #[default]
    Alone,
    /// The case of this name has the same requests at a point without padding.
    PaddedOf(String),
    /// The cases of these names have each a part of the requests.
    MixOf(Vec<String>),
}

/// A step to be timed.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its name, by which other records name it.
    pub name: String,
    /// The step.
    pub shape: RigShape,
    /// How its rows are sampled.
    pub sampling: Sampling,
    /// What it is measured against.
    pub relation: Relation,
}

/// Sizes of the cases.
struct Sizes {
    decodes: &'static [u32],
    /// Of decodes that are there for their products.
    context: u32,
    prefills: &'static [u32],
    /// Decodes and their keys.
    attention: [(u32, u32); 2],
    /// Tokens of the prefill, decodes, and their context.
    mixed: (u32, u32, u32),
    /// A point of all kinds and the tokens that it is replayed with.
    padded_mixed: ((u32, u32, u32), u32),
    /// Slots of decodes and how many are taken.
    padded_decodes: [(u32, u32); 2],
    sampled: u32,
}

const FULL: Sizes = Sizes {
    decodes: &[1, 2, 4, 8, 16, 32, 64],
    context: 512,
    prefills: &[512, 1024, 2048, 4096, 8192],
    attention: [(64, 8192), (1, 32_768)],
    mixed: (2048, 128, 2048),
    padded_mixed: ((1024, 8, 16), 520),
    padded_decodes: [(396, 60), (128, 9)],
    sampled: 64,
};

/// For the simulated device: every kind of case, as small as it can be.
const SMALL: Sizes = Sizes {
    decodes: &[1, 3],
    context: 40,
    prefills: &[24],
    attention: [(2, 130), (1, 600)],
    mixed: (24, 2, 40),
    padded_mixed: ((48, 1, 2), 20),
    padded_decodes: [(20, 3), (8, 2)],
    sampled: 3,
};

/// The cases, for a GPU or, smaller, for the simulated device.
#[must_use]
pub fn cases(simulated: bool) -> Vec<Case> {
    let sizes = if simulated { SMALL } else { FULL };
    let mut cases = Vec::new();
    let mut add = |name: String, (tokens, prefills, decodes): (u32, u32, u32), context: u32| {
        let shape = RigShape::full(GridPoint { tokens, prefills, decodes }, context);
        cases.push(Case { name, shape, sampling: Sampling::GREEDY, relation: Relation::Alone });
    };
    for &decodes in sizes.decodes {
        add(format!("decode-{decodes}"), (decodes, 0, decodes), sizes.context);
    }
    for &tokens in sizes.prefills {
        add(format!("prefill-{tokens}"), (tokens, 1, 0), 0);
    }
    for (decodes, keys) in sizes.attention {
        add(format!("decode-{decodes}-at-{keys}"), (decodes, 0, decodes), keys - 1);
    }
    let (tokens, decodes, context) = sizes.mixed;
    let parts = [format!("mixed-prefill-{tokens}"), format!("mixed-decode-{decodes}-at-{context}")];
    add(parts[0].clone(), (tokens, 1, 0), 0);
    add(parts[1].clone(), (decodes, 0, decodes), context);
    add(format!("mixed-{tokens}-and-{decodes}"), (tokens + decodes, 1, decodes), context);
    let mixed = cases.len() - 1;
    cases[mixed].relation = Relation::MixOf(parts.to_vec());

    let (point, real) = sizes.padded_mixed;
    let (_, prefills, decodes) = point;
    let decodes_only = sizes.padded_decodes.map(|(slots, taken)| ((slots, 0, slots), (taken, 0, taken)));
    for (point, real) in [(point, (real, prefills, decodes))].into_iter().chain(decodes_only) {
        let exact = format!("exact-{}", real.0);
        let grid = |(tokens, prefills, decodes)| GridPoint { tokens, prefills, decodes };
        let alone = RigShape::full(grid(real), sizes.context);
        let (tokens, prefills, decodes) = real;
        let padded = RigShape { point: grid(point), real: StepShape { tokens, prefills, decodes }, ..alone };
        let case = |name, shape, relation| Case { name, shape, sampling: Sampling::GREEDY, relation };
        cases.push(case(exact.clone(), alone, Relation::Alone));
        cases.push(case(format!("padded-{}-with-{}", point.0, real.0), padded, Relation::PaddedOf(exact)));
    }
    for (name, sampling) in [
        ("sampling-temperature", Sampling { temperature: 0.8, ..Sampling::GREEDY }),
        ("sampling-top-k-top-p", Sampling { temperature: 0.8, top_p: 0.95, top_k: 50 }),
    ] {
        let point = GridPoint { tokens: sizes.sampled, prefills: 0, decodes: sizes.sampled };
        let shape = RigShape::full(point, sizes.context);
        cases.push(Case { name: name.to_owned(), shape, sampling, relation: Relation::Alone });
    }
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gridpoint_model::Shape;

    use super::*;

    #[test]
    fn cases_are_steps_and_name_each_other() {
        for (simulated, shape) in [(false, "llama-3-8b"), (true, "tiny")] {
            let config = Shape::find(shape).expect("the shape is there").config(Some(1)).expect("the shape is a model");
            let cases = cases(simulated);
            let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
            assert_eq!(names.len(), cases.len(), "every name stands once");
            for case in &cases {
                case.shape.check(&config).expect("the step can be");
                let others: &[String] = match &case.relation {
                    Relation::Alone => &[],
                    Relation::PaddedOf(exact) => std::slice::from_ref(exact),
                    Relation::MixOf(parts) => parts,
                };
                assert!(others.iter().all(|other| names.contains(other.as_str())), "{case:?}");
            }
            assert_eq!(cases.iter().filter(|case| case.relation != Relation::Alone).count(), 4);
        }
        assert!(cases(false).iter().any(|case| case.name == "padded-1024-with-520"));
        assert!(cases(false).iter().any(|case| case.name == "decode-64-at-8192" && case.shape.context == 8191));
    }
}
