# syntax=docker/dockerfile:1
# A Crossdock server. `docker compose build` makes it; see docs/DEPLOYMENT.md.

FROM rust:1.95-bookworm AS build
# RocksDB's C header is read through libclang.
RUN apt-get update && apt-get install -y --no-install-recommends libclang-dev python3 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV CARGO_TARGET_DIR=/build/target ROCKSDB_LIB_DIR=/build/rocksdb ROCKSDB_STATIC=1
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build \
    scripts/build-rocksdb "$ROCKSDB_LIB_DIR" \
    && cargo build --release --locked -p crossdock-cli \
    && install -D -s "$CARGO_TARGET_DIR/release/crossdock" /out/crossdock

FROM debian:bookworm-slim
# Services are Python; certificates are for tls:// and crossdocks://.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libstdc++6 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/crossdock crossdock
COPY --from=build /out/crossdock /usr/local/bin/crossdock
USER crossdock
WORKDIR /var/lib/crossdock
# HTTP gateway, Admin API, wire.
EXPOSE 7400 7401 7402
HEALTHCHECK --interval=3s --timeout=3s --start-period=90s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7400/health', timeout=2)"]
ENTRYPOINT ["crossdock"]
# Which broker it works on is said by CROSSDOCK_BROKER, or by arguments instead of this one.
CMD ["server"]
