//! Nothing: the targets are beside it.
