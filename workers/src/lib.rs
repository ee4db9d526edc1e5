//! Running services: pools, processes, settling, deployment.
