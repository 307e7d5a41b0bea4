//! Nothing: see the test binary.
