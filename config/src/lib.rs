//! What a cluster is made of, as YAML: kinds, validation, plan, apply, export.
