# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
WORKDIR /build

# The dependencies alone first: this layer is made again only when Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo 'fn main() {}' >src/main.rs && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r src

COPY migrations migrations
COPY src src
# Files keep the time of the checkout, which may lie before that of the empty ones above.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked && strip target/release/rowstream

# glibc, libgcc and the certificates of public authorities; no shell, and a user who is not root.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/rowstream /usr/local/bin/rowstream
COPY LICENSE /usr/share/doc/rowstream/LICENSE

# Inside a container, loopback is nobody.
ENV ROWSTREAM__HTTP__LISTEN=0.0.0.0:8080
EXPOSE 8080
# No HEALTHCHECK: there is no shell, and orchestrators ask /livez and /readyz themselves.
ENTRYPOINT ["/usr/local/bin/rowstream"]
CMD ["run", "--config", "/etc/rowstream/rowstream.yaml"]
