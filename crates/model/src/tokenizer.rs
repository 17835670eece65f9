//! `tokenizer.json`: text to token ids and back, whole or as the tokens come.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::models::ModelWrapper;

use crate::error::{ModelError, Result, excerpt, read_bytes};

/// A tokenizer file larger than this is not one.
const TOKENIZER_BYTES: u64 = 512 << 20;

/// The tokenizer of a model folder. Clones share it.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    vocab_size: usize,
    tokenizer: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a folder, `None` where there is none. Truncation and padding that the file asks for
    /// are left out: a prompt is encoded as it is.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, that names a token id of `vocab_size` or above, or that encodes at random.
    pub fn load(folder: &Path, vocab_size: usize) -> Result<Option<Self>> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = read_bytes(&path, TOKENIZER_BYTES, "the `tokenizer.json` of a Hugging Face model folder")?;
        let mut tokenizer = guarded(&path, || tokenizers::Tokenizer::from_bytes(&text))?;
        guarded(&path, || tokenizer.with_truncation(None).map(|_| ()))?;
        tokenizer.with_padding(None);
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && let Some(dropout) = model.dropout.filter(|&dropout| dropout != 0.0)
        {
            let reason = format!("`model.dropout` is `{dropout}`, it must be `null`: encoding must not be random");
            return Err(ModelError::Tokenizer { path, reason });
        }
        let largest = tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        if let Some((token, id)) = largest.filter(|&(_, id)| id as usize >= vocab_size) {
            let token = excerpt(&token);
            let reason =
                format!("token `{token}` has id `{id}`, it must be below the model's vocabulary size {vocab_size}");
            return Err(ModelError::Tokenizer { path, reason });
        }
        Ok(Some(Tokenizer { shared: Arc::new(Shared { path, vocab_size, tokenizer }) }))
    }

    /// The token ids of `text`, nothing added at either end. Special tokens that the text spells out become themselves.
    ///
    /// # Errors
    /// A text that the tokenizer has no tokens for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let Shared { path, vocab_size, tokenizer } = &*self.shared;
        let encoding = guarded(path, || tokenizer.encode_fast(text, false))?;
        let ids = encoding.get_ids();
        match ids.iter().find(|&&id| id as usize >= *vocab_size) {
            Some(&id) => Err(ModelError::TokenId { id, vocab_size: *vocab_size }),
            None => Ok(ids.to_vec()),
        }
    }

    /// The text of `ids`, special tokens included. Bytes that are not UTF-8 become U+FFFD; an id below the vocabulary's
    /// size that has no token (embeddings are often padded) gives no text.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let Shared { path, vocab_size, tokenizer } = &*self.shared;
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= *vocab_size) {
            return Err(ModelError::TokenId { id, vocab_size: *vocab_size });
        }
        guarded(path, || tokenizer.decode(ids, false))
    }

    /// A decoder that takes tokens one by one.
    #[must_use]
    pub fn stream(&self) -> TokenStream {
        TokenStream { tokenizer: self.clone(), window: Vec::new(), settled: 0, text: String::new() }
    }

    /// Whether a token is one byte of a character in the notation of byte-fallback vocabularies: `<0xE2>`.
    fn is_byte_token(&self, id: u32) -> bool {
        let token = self.shared.tokenizer.id_to_token(id);
        token.is_some_and(|token| token.len() == 6 && token.starts_with("<0x") && token.ends_with('>'))
    }
}

/// Runs a call into the tokenizers crate; its errors, and its panics should a hostile file cause one, become ours.
fn guarded<T>(path: &Path, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let reason = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => excerpt(&error.to_string()),
        Err(_) => "the tokenizer gave up on it".into(),
    };
    Err(ModelError::Tokenizer { path: path.to_owned(), reason })
}

/// Text as tokens come. What is returned is final; characters whose bytes are not all there are held back.
///
/// The pieces, with what [`TokenStream::finish`] returns, add up to [`Tokenizer::decode`] of all tokens for decoders
/// whose text of a token depends on its neighbours only within a character or a run of byte tokens: byte-level BPE,
/// and byte fallback with or without a stripped first space.
///
/// The method is that of a sliding window: the tokens since the last but one piece are decoded with and without the new
/// ones, and the difference is the piece, so that a decoder that treats the first token differently sees a predecessor.
#[derive(Debug, Clone)]
pub struct TokenStream {
    tokenizer: Tokenizer,
    /// The tokens since the last but one piece.
    window: Vec<u32>,
    /// How many of them the pieces so far contain.
    settled: usize,
    /// The text of those.
    text: String,
}

impl TokenStream {
    /// Takes one token and returns the text that is now final, often empty.
    ///
    /// # Errors
    /// An id outside the vocabulary; the stream is as before.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let text = match self.tokenizer.decode(&self.window) {
            Ok(text) => text,
            Err(error) => {
                self.window.pop();
                return Err(error);
            }
        };
        // U+FFFD at the end: most likely the first bytes of a character whose others are still to come.
        let complete = !text.ends_with(char::REPLACEMENT_CHARACTER) && !self.tokenizer.is_byte_token(id);
        match text.strip_prefix(&self.text) {
            Some(piece) if complete && !piece.is_empty() => {
                let piece = piece.to_owned();
                self.window.drain(..self.settled);
                self.settled = self.window.len();
                self.text = self.tokenizer.decode(&self.window)?;
                Ok(piece)
            }
            _ => Ok(String::new()),
        }
    }

    /// The text that was held back: no more tokens come.
    ///
    /// # Errors
    /// None that [`TokenStream::push`] has not reported before.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window)?;
        Ok(text.strip_prefix(&self.text).unwrap_or_default().to_owned())
    }
}
