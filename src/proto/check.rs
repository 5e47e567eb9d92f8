//! `envoy.service.auth.v3.CheckRequest`, read in place, as far as it is looked at: the rest is passed over.
//!
//! Text is not demanded to be UTF-8: gateways pass on what clients send, and a client must not be able to make its
//! gateway's question unreadable. A map is a list, so that what stands in it twice is seen.

use super::wire::{Unreadable, fields};

/// A gateway's question.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CheckRequest<'a> {
    /// The method of the request.
    pub method: &'a [u8],
    /// The target of its request line, query included.
    pub path: &'a [u8],
    /// Its `Host` or `:authority`.
    pub host: &'a [u8],
    /// Its headers, what is repeated joined by commas.
    pub joined_headers: Vec<Pair<'a>>,
    /// The headers as they came, where the gateway is told to send them so (`encode_raw_headers`).
    pub raw_headers: Vec<Pair<'a>>,
    /// The IP address that it came from, where it came by TCP.
    pub client_address: &'a [u8],
    /// What the gateway's configuration says of its route.
    pub context_extensions: Vec<Pair<'a>>,
    /// What filters of the gateway found out, by their names: each a `google.protobuf.Struct` that is not yet read.
    pub filter_metadata: Vec<Pair<'a>>,
}

/// A name and its value.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

impl<'a> CheckRequest<'a> {
    /// Reads a message. What stands in it twice is merged, as protobuf demands.
    pub fn read(message: &'a [u8]) -> Result<Self, Unreadable> {
        let mut check = Self::default();
        fields(message, |number, attributes| match number {
            1 => check.read_attributes(attributes),
            _ => Ok(()),
        })?;
        Ok(check)
    }

    fn read_attributes(&mut self, attributes: &'a [u8]) -> Result<(), Unreadable> {
        fields(attributes, |number, part| {
            match number {
                1 => self.read_source(part)?,
                4 => self.read_request(part)?,
                10 => self.context_extensions.push(pair(part)?),
                11 => fields(part, |number, part| {
                    if number == 1 {
                        self.filter_metadata.push(pair(part)?);
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })
    }

    /// `Peer.address.socket_address.address`; what is set last of the kinds of address counts.
    fn read_source(&mut self, source: &'a [u8]) -> Result<(), Unreadable> {
        fields(source, |number, address| {
            if number != 1 {
                return Ok(());
            }
            fields(address, |number, kind| {
                match number {
                    1 => fields(kind, |number, text| {
                        if number == 2 {
                            self.client_address = text;
                        }
                        Ok(())
                    })?,
                    2 | 3 => self.client_address = &[],
                    _ => {}
                }
                Ok(())
            })
        })
    }

    fn read_request(&mut self, request: &'a [u8]) -> Result<(), Unreadable> {
        fields(request, |number, http| match number {
            2 => self.read_http(http),
            _ => Ok(()),
        })
    }

    fn read_http(&mut self, http: &'a [u8]) -> Result<(), Unreadable> {
        fields(http, |number, part| {
            match number {
                2 => self.method = part,
                3 => push(&mut self.joined_headers, pair(part)?),
                4 => self.path = part,
                5 => self.host = part,
                13 => fields(part, |number, header| {
                    if number == 1 {
                        push(&mut self.raw_headers, raw_header(header)?);
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })
    }
}

/// Most requests have between a few and some dozens of headers.
fn push<'a>(headers: &mut Vec<Pair<'a>>, header: Pair<'a>) {
    if headers.capacity() == 0 {
        headers.reserve(32);
    }
    headers.push(header);
}

/// An entry of a map.
fn pair(entry: &[u8]) -> Result<Pair<'_>, Unreadable> {
    let mut pair: Pair<'_> = (&[], &[]);
    fields(entry, |number, part| {
        match number {
            1 => pair.0 = part,
            2 => pair.1 = part,
            _ => {}
        }
        Ok(())
    })?;
    Ok(pair)
}

/// A header, whose value stands in one of two fields.
fn raw_header(header: &[u8]) -> Result<Pair<'_>, Unreadable> {
    let (mut name, mut text, mut raw): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
    fields(header, |number, part| {
        match number {
            1 => name = part,
            2 => text = part,
            3 => raw = part,
            _ => {}
        }
        Ok(())
    })?;
    Ok((name, if raw.is_empty() { text } else { raw }))
}
