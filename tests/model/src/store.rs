//! The store, as far as the protocol sees it: changes in one order, of which some concern the one key of the model.

/// What the key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    Absent,
    On,
    Off,
}

/// A set of [`Key`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Keys(u8);

impl Keys {
    pub fn add(&mut self, key: Key) {
        self.0 |= 1 << key as u8;
    }

    pub fn has(self, key: Key) -> bool {
        self.0 & 1 << key as u8 != 0
    }

    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl From<Key> for Keys {
    fn from(key: Key) -> Self {
        Self(1 << key as u8)
    }
}

/// A place in the order (S3). The epoch is left out: another epoch is seen at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub n: u8,
    pub tag: u8,
}

/// The start of every order.
pub const START: Position = Position { n: 0, tag: 0 };

/// A change, and what the key is after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    pub tag: u8,
    /// Whether it is one of the key, and not of something else.
    pub touches: bool,
    pub key: Key,
}

/// What was true of the key at a position, of this history or of one that was lost: what Redis may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    pub position: Position,
    pub key: Key,
}

/// All changes, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log(Vec<Change>);

impl Log {
    pub fn position(&self) -> Position {
        Position { n: self.len(), tag: self.0.last().map_or(START.tag, |change| change.tag) }
    }

    pub fn key(&self) -> Key {
        self.0.last().map_or(Key::Absent, |change| change.key)
    }

    pub fn len(&self) -> u8 {
        u8::try_from(self.0.len()).expect("a model has few changes")
    }

    pub fn tag_at(&self, n: u8) -> Option<u8> {
        if n == 0 { Some(START.tag) } else { self.0.get(usize::from(n) - 1).map(|it| it.tag) }
    }

    pub fn holds(&self, position: Position) -> bool {
        self.tag_at(position.n) == Some(position.tag)
    }

    /// The changes after this number, each with its own.
    pub fn after(&self, n: u8) -> impl Iterator<Item = (u8, Change)> + '_ {
        (1..).zip(self.0.iter().copied()).skip(usize::from(n))
    }

    pub fn push(&mut self, change: Change) {
        self.0.push(change);
    }

    /// Forgets what came after this number.
    pub fn truncate(&mut self, n: u8) {
        self.0.truncate(n.into());
    }
}
