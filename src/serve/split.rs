//! Tells the headers in a stream of frames, or of TLS records, from what they announce.

/// Finds the headers of `N` bytes, however they arrive. Payloads are skipped, not read.
pub(super) struct Split<const N: usize> {
    header: [u8; N],
    filled: usize,
    /// What is still to come of a payload.
    payload_bytes: usize,
    announced: fn([u8; N]) -> usize,
}

impl<const N: usize> Split<N> {
    /// `announced` tells the bytes of the payload that a header announces.
    pub(super) const fn new(announced: fn([u8; N]) -> usize) -> Self {
        Self { header: [0; N], filled: 0, payload_bytes: 0, announced }
    }

    /// The next header, if it is complete; what was followed is taken from `bytes`.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<[u8; N]> {
        let skipped = self.payload_bytes.min(bytes.len());
        self.payload_bytes -= skipped;
        *bytes = &bytes[skipped..];
        let (part, rest) = bytes.split_at(bytes.len().min(N - self.filled));
        self.header[self.filled..self.filled + part.len()].copy_from_slice(part);
        self.filled += part.len();
        *bytes = rest;
        if self.filled < N {
            return None;
        }
        self.filled = 0;
        self.payload_bytes = (self.announced)(self.header);
        Some(self.header)
    }
}
