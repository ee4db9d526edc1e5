//! The sandbox: real servers, on free ports, in folders of their own.
