//! A name on the stack.

use std::ffi::CStr;
use std::fmt;

/// Bytes of a name, the zero at its end among them.
const BYTES: usize = 256;

/// A formatted name that ends in a zero byte, cut off where it gets too long.
pub(super) struct Text {
    bytes: [u8; BYTES],
    length: usize,
}

impl Text {
    pub(super) fn new(name: fmt::Arguments<'_>) -> Self {
        let mut text = Self { bytes: [0; BYTES], length: 0 };
        // It fails where the room ends, and what fits is the name then.
        let _ = fmt::Write::write_fmt(&mut text, name);
        text
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let room = BYTES - 1 - self.length;
        let fits = piece.floor_char_boundary(room);
        self.bytes[self.length..self.length + fits].copy_from_slice(&piece.as_bytes()[..fits]);
        self.length += fits;
        if fits == piece.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_the_name() {
        assert_eq!(Text::new(format_args!("replay {}", 3)).as_c_str(), c"replay 3");
        assert_eq!(Text::new(format_args!("")).as_c_str(), c"");
        let long = "é".repeat(200);
        let text = Text::new(format_args!("x{long}{long}"));
        assert_eq!(text.as_c_str().to_str().map(str::len), Ok(255));
        let text = Text::new(format_args!("{long}"));
        assert_eq!(text.as_c_str().to_str().map(str::len), Ok(254), "no half of a character");
    }
}
