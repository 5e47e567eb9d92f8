//! Watches the frames that an HTTP/2 peer sends, and tells when too many of them ask for nothing.
//!
//! h2 answers PING and SETTINGS for as long as they come, and passes over PRIORITY, window updates and frames of
//! unknown types, each of which costs its sender next to nothing. Here a call, an answer and time each allow for
//! so many frames beside them. Payloads are skipped, not read, and no clock is asked while the allowance lasts.

use tokio::time::Instant;

use super::split::Split;

const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// Payload length (3 bytes), type SETTINGS, flag ACK, stream 0: RFC 9113 §4.1 and §6.5.
const SETTINGS_ACK: [u8; HEADER_BYTES] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

/// Frames beside calls that a connection may have saved up: those of its beginning, and a burst.
const SAVED_MAX: u64 = 1_000;
/// Frames that go with a call: its end, window updates, a ping to measure the way, being called off.
const PER_CALL: u64 = 8;
/// Bytes written for which a peer may send a frame, to give back window.
const BYTES_PER_FRAME: u64 = 512;
/// Frames beside calls that a connection may send at any time: pings of idle ones.
const PER_SECOND: u64 = 100;

/// What the frames of a peer have come to.
pub(super) struct Frames {
    headers: Split<HEADER_BYTES>,
    /// The peer has acknowledged our SETTINGS.
    is_settled: bool,
    /// Frames that may still come, save for what was earned since `earned_at`.
    allowed: u64,
    calls: u64,
    bytes_written: u64,
    earned_at: Instant,
}

/// Too many frames, or TLS records, that ask for nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sends too much that asks for nothing")]
pub(super) struct Flood;

const fn payload_bytes([high, middle, low, ..]: [u8; HEADER_BYTES]) -> usize {
    u32::from_be_bytes([0, high, middle, low]) as usize
}

impl Frames {
    /// Nothing after the preface was heard.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            headers: Split::new(payload_bytes),
            is_settled: false,
            allowed: SAVED_MAX,
            calls: 0,
            bytes_written: 0,
            earned_at: now,
        }
    }

    /// Whether the peer has acknowledged our SETTINGS.
    pub(super) const fn are_settled(&self) -> bool {
        self.is_settled
    }

    /// So many bytes were written to the peer.
    pub(super) const fn wrote(&mut self, bytes: usize) {
        self.bytes_written += bytes as u64;
    }

    /// Follows the next bytes from the peer. `now` is asked when the allowance is used up.
    pub(super) fn hear(
        &mut self,
        mut bytes: &[u8],
        now: impl Fn() -> Instant,
    ) -> Result<(), Flood> {
        while let Some(header) = self.headers.next(&mut bytes) {
            self.begin_frame(header, &now)?;
        }
        Ok(())
    }

    fn begin_frame(
        &mut self,
        header: [u8; HEADER_BYTES],
        now: impl Fn() -> Instant,
    ) -> Result<(), Flood> {
        self.is_settled |= header == SETTINGS_ACK;
        match header[3] {
            HEADERS => self.calls += 1,
            DATA if payload_bytes(header) > 0 => {}
            _ if self.allowed > 0 => self.allowed -= 1,
            _ => self.allowed = self.earned(now()).checked_sub(1).ok_or(Flood)?,
        }
        Ok(())
    }

    /// What was earned since this was asked last.
    fn earned(&mut self, now: Instant) -> u64 {
        let millis =
            u64::try_from(now.duration_since(self.earned_at).as_millis()).unwrap_or(u64::MAX);
        let by_time = millis.saturating_mul(PER_SECOND) / 1_000;
        if by_time > 0 {
            self.earned_at = now;
        }
        let calls = std::mem::take(&mut self.calls);
        let by_answers = self.bytes_written / BYTES_PER_FRAME;
        self.bytes_written %= BYTES_PER_FRAME;
        calls
            .saturating_mul(PER_CALL)
            .saturating_add(by_answers)
            .saturating_add(by_time)
            .min(SAVED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const CALL: [u8; 11] = [0, 0, 2, HEADERS, 4, 0, 0, 0, 1, 0x82, 0x84];

    /// How many of these frames are taken, at most so many.
    fn taken(frames: &mut Frames, frame: &[u8], at_most: usize, now: Instant) -> usize {
        (0..at_most).take_while(|_| frames.hear(frame, || now).is_ok()).count()
    }

    fn start() -> Instant {
        tokio::time::sleep(Duration::ZERO).deadline()
    }

    #[tokio::test]
    async fn frames_that_ask_for_nothing_are_allowed_until_they_are_a_flood() {
        let now = start();
        let empty_data = [0, 0, 0, DATA, 0, 0, 0, 0, 1];
        let unknown = [0, 0, 1, 0xEE, 0, 0, 0, 0, 0, 7];
        for frame in [&PING[..], &empty_data, &unknown] {
            assert_eq!(taken(&mut Frames::new(now), frame, 5_000, now), 1_000);
        }
    }

    #[tokio::test]
    async fn calls_answers_and_time_allow_for_more() {
        let now = start();
        let mut frames = Frames::new(now);
        assert_eq!(taken(&mut frames, &SETTINGS, 1_000, now), 1_000);
        frames.hear(&CALL, || now).unwrap();
        frames.wrote(1_024);
        assert_eq!(taken(&mut frames, &SETTINGS, 5_000, now), 8 + 2);
        assert_eq!(taken(&mut frames, &SETTINGS, 5_000, now + Duration::from_millis(50)), 5);
        assert_eq!(taken(&mut frames, &SETTINGS, 5_000, now + Duration::from_hours(1)), 1_000);
        assert_eq!(taken(&mut frames, &CALL, 5_000, now), 5_000, "calls are not what is counted");
    }

    #[tokio::test]
    async fn frames_are_the_same_however_they_arrive() {
        let now = start();
        let bytes = [&CALL[..], &PING, &SETTINGS_ACK].concat();
        for at in 0..bytes.len() {
            let mut frames = Frames::new(now);
            frames.hear(&bytes[..at], || now).unwrap();
            assert!(!frames.are_settled());
            frames.hear(&bytes[at..], || now).unwrap();
            assert!(frames.are_settled());
            assert_eq!((frames.calls, frames.allowed), (1, SAVED_MAX - 2), "{at}");
        }
    }

    #[tokio::test]
    async fn an_acknowledgement_inside_a_payload_is_none() {
        let now = start();
        let mut frames = Frames::new(now);
        let data = [&[0, 0, 9, DATA, 0, 0, 0, 0, 1], &SETTINGS_ACK[..]].concat();
        frames.hear(&data, || now).unwrap();
        assert!(!frames.are_settled());
    }
}
