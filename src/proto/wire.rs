//! The wire format of protobuf, read and written in place, where a message of the hot path is larger than what matters
//! of it.

use prost::encoding::{decode_varint, encode_varint};

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no message of protobuf")]
pub struct Unreadable;

/// Calls `take` with the number and the bytes of each field of text, bytes or messages; what is of another type is passed
/// over.
pub(super) fn fields<'a>(
    mut message: &'a [u8],
    mut take: impl FnMut(u64, &'a [u8]) -> Result<(), Unreadable>,
) -> Result<(), Unreadable> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let (number, kind) = (tag >> 3, tag & 7);
        if number == 0 || tag > u64::from(u32::MAX) {
            return Err(Unreadable);
        }
        match kind {
            0 => drop(varint(&mut message)?),
            1 => drop(split(&mut message, 8)?),
            2 => {
                let length = varint(&mut message)?;
                take(number, split(&mut message, length)?)?;
            }
            5 => drop(split(&mut message, 4)?),
            // Groups, which nothing that is read here has.
            _ => return Err(Unreadable),
        }
    }
    Ok(())
}

/// Nearly all are of one byte.
fn varint(message: &mut &[u8]) -> Result<u64, Unreadable> {
    if let Some((&byte @ ..0x80, rest)) = message.split_first() {
        *message = rest;
        return Ok(byte.into());
    }
    decode_varint(message).map_err(|_| Unreadable)
}

fn split<'a>(message: &mut &'a [u8], length: u64) -> Result<&'a [u8], Unreadable> {
    let length = usize::try_from(length).map_err(|_| Unreadable)?;
    let (part, rest) = message.split_at_checked(length).ok_or(Unreadable)?;
    *message = rest;
    Ok(part)
}

/// A message that is being written. Numbers of fields are those of the proto, below 16.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// After these bytes, with room for so many.
    pub(crate) fn after(prefix: &[u8], bytes: usize) -> Self {
        let mut written = Vec::with_capacity(prefix.len() + bytes);
        written.extend_from_slice(prefix);
        Self(written)
    }

    /// All that was written.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A field of a number, a boolean or an enum.
    pub(crate) fn number(&mut self, field: u8, value: u64) {
        self.0.push(field << 3);
        self.varint(value);
    }

    /// A field of text.
    pub(crate) fn text(&mut self, field: u8, text: &str) {
        self.0.push(field << 3 | 2);
        self.varint(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A field that is a message.
    pub(crate) fn message(&mut self, field: u8, write: impl FnOnce(&mut Self)) {
        self.0.extend_from_slice(&[field << 3 | 2, 0]);
        let start = self.0.len();
        write(self);
        // Most are short, so that their length has its byte already.
        let end = self.0.len();
        if let Ok(length @ 0..0x80) = u8::try_from(end - start) {
            self.0[start - 1] = length;
            return;
        }
        self.varint((end - start) as u64);
        let more = self.0.len() - end;
        self.0[start - 1..].rotate_right(more);
        // The byte that was kept for it now stands behind the length.
        self.0.remove(start - 1 + more);
    }

    fn varint(&mut self, value: u64) {
        match u8::try_from(value) {
            Ok(byte @ ..0x80) => self.0.push(byte),
            _ => encode_varint(value, &mut self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    #[test]
    fn what_is_written_is_canonical() {
        for length in [0, 1, 120, 121, 127, 128, 16_383, 16_384, 300_000] {
            let text = "x".repeat(length);
            let mut writer = Writer::after(b"ab", 8);
            writer.message(3, |inner| {
                inner.number(1, 300);
                inner.text(2, &text);
            });
            let expected = [&b"ab\x1a"[..], &{
                let mut bytes =
                    prost_types::FieldMask { paths: vec![text.clone()] }.encode_to_vec();
                // Field 1 there, field 2 here.
                bytes[0] = 2 << 3 | 2;
                let inner = [&[8, 0xac, 2][..], &bytes].concat();
                let mut whole = vec![];
                encode_varint(inner.len() as u64, &mut whole);
                whole.extend(inner);
                whole
            }]
            .concat();
            assert_eq!(writer.into_bytes(), expected, "{length}");
        }
    }

    #[test]
    fn what_is_no_message_is_told() {
        for bytes in [
            &[0x0a][..],                                             // no length
            &[0x0a, 5, 1],                                           // cut off
            &[0x02, 0],                                              // field 0
            &[0x0b],                                                 // a group
            &[0x0f],                                                 // no such type
            &[0x80; 11],                                             // no end
            &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], // more than 64 bits
            &[0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], // longer than anything
            &[0x09, 0],
            &[0x0d, 0],
        ] {
            assert_eq!(fields(bytes, |_, _| Ok(())), Err(Unreadable), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut seen = 0;
            let _ = fields(&bytes, |_, part| { seen += part.len(); Ok(()) });
            prop_assert!(seen <= bytes.len());
        }
    }
}
