//! The suite that every engine is run through.
