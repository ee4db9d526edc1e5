//! Frames and their headers, as data: encode, check, decode.
