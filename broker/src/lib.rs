//! The engines behind the broker's contract.
