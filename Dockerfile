FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
ENV SQLX_OFFLINE=true
# Dependencies are built in a separate layer, because they rarely change.
COPY .cargo .cargo
COPY crates crates
COPY Cargo.toml Cargo.lock build.rs ./
RUN mkdir -p src tests/it \
    && echo 'fn main() {}' > src/main.rs \
    && cp src/main.rs tests/it/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --no-default-features \
    && rm -r src tests
COPY . .
# /data is the volume. A new volume gets the owner of this directory.
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --no-default-features \
    && scripts/sbom --no-default-features > /workflow-receiver.cdx.json \
    && mkdir -p /data/spool

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/workflow-receiver /usr/local/bin/workflow-receiver
# The program's bill of materials. The base image lists its packages in /var/lib/dpkg/status.d.
COPY --from=build /workflow-receiver.cdx.json /usr/share/sbom/workflow-receiver.cdx.json
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
WORKDIR /data
# PORT is a default: Cloud Run, Heroku and other platforms override it.
ENV PORT=8080 \
    RECEIVER__SHUTDOWN__GRACE=5s \
    RECEIVER__SPOOL__DIR=/data/spool
EXPOSE 8080
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --retries=3 CMD ["/usr/local/bin/workflow-receiver", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/workflow-receiver"]
CMD ["serve"]
