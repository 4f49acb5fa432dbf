# An image whose command is kip: docker build -t kip . && docker run -v "$PWD:/work" kip distill digits_convnet
FROM python:3.12-slim-bookworm
WORKDIR /opt/kip
COPY . .
RUN pip install --no-cache-dir . && useradd --create-home kip && install -d -o kip /work
USER kip
WORKDIR /work
ENTRYPOINT ["kip"]
CMD ["--help"]
