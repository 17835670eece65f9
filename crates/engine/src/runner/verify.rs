//! The graphs that serve, proved.

use gridpoint_graph::verify::{VerifyOptions, VerifyProgress, VerifyReport, verify};

use super::Runner;
use crate::error::EngineError;
use crate::verify::ModelSubject;

impl Runner {
    /// Compares every graph with eager launches. What the kv cache and the workspace hold is lost.
    pub(crate) fn verify(
        &mut self,
        options: &VerifyOptions,
        observe: impl FnMut(&VerifyProgress),
    ) -> Result<VerifyReport, EngineError> {
        self.graphs.capture_rest();
        let points = self.graphs.points().len();
        let eager = (0..points).filter(|&index| !self.graphs.is_captured(index)).count();
        if eager > 0 {
            return Err(EngineError::NotCaptured { eager, points });
        }
        let Self { stream, graphs, ring, model, .. } = self;
        let mut subject = ModelSubject::new(model, ring.address(), options.cache_bytes);
        verify(graphs, &mut subject, ring, stream, options, observe)
            .map_err(|failure| EngineError::Verify(Box::new(failure)))
    }
}
