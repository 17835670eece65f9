//! Generated tokens as text for people: as they come, or whole.

use std::io::Write;

use gridpoint_model::{TokenStream, Tokenizer};

use super::Failure;

/// How tokens become text: not at all without a tokenizer, and without the token that ended the sequence.
pub(super) struct Texts<'a> {
    pub(super) tokenizer: Option<&'a Tokenizer>,
    pub(super) stop_tokens: &'a [u32],
}

impl<'a> Texts<'a> {
    /// The text of a request's tokens; `None` without a tokenizer.
    pub(super) fn text(&self, tokens: &[u32]) -> Result<Option<String>, Failure> {
        let Some(tokenizer) = self.tokenizer else { return Ok(None) };
        let shown = match tokens.split_last() {
            Some((last, rest)) if self.stop_tokens.contains(last) => rest,
            _ => tokens,
        };
        tokenizer.decode(shown).map(Some).map_err(Failure::failed)
    }

    /// The same text or, without a tokenizer, the token ids.
    pub(super) fn readable(&self, tokens: &[u32]) -> Result<String, Failure> {
        let ids = || tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        Ok(self.text(tokens)?.unwrap_or_else(ids))
    }

    /// What prints the text of one request while its tokens come.
    pub(super) fn stream(&self) -> TextStream<'a> {
        TextStream { tokens: self.tokenizer.map(Tokenizer::stream), stop_tokens: self.stop_tokens, anything: false }
    }
}

/// One request's text as it comes, or its token ids where there is no tokenizer. All of it is what [`Texts::readable`] gives,
/// and a newline.
pub(super) struct TextStream<'a> {
    tokens: Option<TokenStream>,
    stop_tokens: &'a [u32],
    anything: bool,
}

impl TextStream<'_> {
    /// Prints what is final with one more token.
    pub(super) fn push(&mut self, token: u32, output: &mut dyn Write) -> Result<(), Failure> {
        let piece = match &mut self.tokens {
            Some(_) if self.stop_tokens.contains(&token) => return Ok(()),
            Some(stream) => stream.push(token).map_err(Failure::failed)?,
            None if self.anything => format!(" {token}"),
            None => token.to_string(),
        };
        self.anything = true;
        output.write_all(piece.as_bytes()).and_then(|()| output.flush()).map_err(Failure::output)
    }

    /// Prints what was held back, and the newline.
    pub(super) fn finish(self, output: &mut dyn Write) -> Result<(), Failure> {
        let rest = self.tokens.map(TokenStream::finish).transpose().map_err(Failure::failed)?;
        writeln!(output, "{}", rest.unwrap_or_default()).and_then(|()| output.flush()).map_err(Failure::output)
    }
}
