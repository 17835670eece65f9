//! Chains of replays of random points: whatever one leaves for the next shows.

use std::collections::VecDeque;

use gridpoint_plan::{GridPoint, StepShape};

use super::compare::{Block, Launch, Proof};
use super::difference;
use super::random::Random;
use super::report::{Comparison, Mismatch, VerifyProgress};
use super::step::RealStep;
use super::tensor::Tensor;
use super::{Captured, Case, Context, Padding, Subject};
use crate::{RING_SLOTS, Ticket};

/// Most replays of a chain.
const LONGEST: u64 = 16;

/// A replay of a chain.
struct Link {
    index: usize,
    point: GridPoint,
    case: Case,
    step: RealStep,
}

impl<G: Captured, S: Subject> Proof<'_, G, S> {
    /// Replays random points in chains, as far ahead of the device as the ring allows, each upon the cache and the scratch that the one
    /// before it left; then launches the same steps eagerly in their exact shapes.
    pub(super) fn soak(&mut self, observe: &mut impl FnMut(&VerifyProgress)) -> Result<(), S::Error> {
        let points = self.graphs.points().len() as u64;
        let mut done = 0;
        for number in 0.. {
            let length = self.options.soak.saturating_sub(done).min(LONGEST);
            let mut random = Random::of(self.options.seed, &[u64::MAX, number]);
            let length = length.min(1 + random.below(LONGEST));
            let chain: Vec<Link> = (0..length).filter_map(|_| self.link(&mut random)).collect();
            let Some(last) = chain.last() else { break };
            let point = last.point;
            self.chain(&chain)?;
            done += chain.len() as u64;
            self.report.soaked = done;
            observe(&self.progress(points + done, point));
        }
        Ok(())
    }

    /// A random step at a random point; none where there is no point or no room.
    fn link(&self, random: &mut Random) -> Option<Link> {
        let points = self.graphs.points();
        let index = random.below(points.len() as u64) as usize;
        let point = *points.get(index)?;
        let case = self.bounds.random(point, random)?;
        let step = RealStep::new(&case, &self.bounds.room, random);
        Some(Link { index, point, case, step })
    }

    fn chain(&mut self, chain: &[Link]) -> Result<(), S::Error> {
        let replayed = self.run_chain(chain, false)?;
        self.report.replays += chain.len() as u64;
        let eager = self.run_chain(chain, true)?;
        for ((link, found), expected) in chain.iter().zip(&replayed).zip(&eager) {
            if let Some(difference) = difference::of_tensors(found, expected) {
                let (padding, comparison) = (Padding::OtherRequests, Comparison::Soak);
                self.report.add(Mismatch::of_step(link.point, &link.case, padding, comparison, difference));
            }
        }
        Ok(())
    }

    /// What each step of a chain answered, and what the last one left, by the last.
    fn run_chain(&mut self, chain: &[Link], eager: bool) -> Result<Vec<Vec<Tensor>>, S::Error> {
        let Some(first) = chain.first() else { return Ok(Vec::new()) };
        self.prepare(Padding::OtherRequests, &first.step)?;
        let mut running: VecDeque<Ticket> = VecDeque::new();
        let mut answers = Vec::new();
        for (number, link) in chain.iter().enumerate() {
            let way = if eager { "launched eagerly" } else { "replayed" };
            self.doing =
                format!("graph {} with the step {} was {way}, number {number} of a chain", link.point, link.case.shape);
            if running.len() == RING_SLOTS
                && let Some(ticket) = running.pop_front()
            {
                answers.push(self.results(&ticket)?);
            }
            running.push_back(match eager {
                false => {
                    let block = Block::of(link.point, &link.step);
                    self.submit(Launch::Replay(link.index), &block, &link.step, |_| ())?
                }
                true => {
                    let own = link.step.own_point();
                    let launches = self.subject.record(own)?;
                    self.submit(Launch::Eager(&launches), &Block::of(own, &link.step), &link.step, |_| ())?
                }
            });
        }
        for ticket in running {
            answers.push(self.results(&ticket)?);
        }
        if let (Some(answer), Some(last)) = (answers.last_mut(), chain.last()) {
            answer.extend(self.subject.collect(last.step.logit_rows())?);
        }
        Ok(answers)
    }
}

impl super::case::Bounds {
    /// Any step that the point replays.
    fn random(&self, point: GridPoint, random: &mut Random) -> Option<Case> {
        let GridPoint { tokens, prefills, decodes } = point;
        let p = random.between(0, prefills);
        let surplus = if random.below(4) == 0 { prefills - p } else { 0 };
        let d = random.between(0, decodes.saturating_add(surplus)).min(tokens - p.min(tokens));
        let (p, d) = match (p, d) {
            (0, 0) if prefills > 0 => (1, 0),
            (0, 0) => (0, 1),
            counts => counts,
        };
        let least = p + d;
        let most = if random.below(2) == 0 { tokens } else { least };
        let t = if p == 0 { d } else { random.between(least, most) };
        let shape = self.fit(StepShape { tokens: t, prefills: p, decodes: d })?;
        let contexts = [Context::Short, Context::Long, Context::Mixed, Context::Mixed];
        let context = contexts[random.below(contexts.len() as u64) as usize];
        Some(Case { shape, context, scores: shape.prefills > 0 && random.below(4) == 0 })
    }
}
