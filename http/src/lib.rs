//! What the HTTP faces share: problems, credentials, limits, serving.
