# Written, not run: no Docker was at hand where dlcli is developed.
#
#   docker build -t dlcli .                                                          the CPU
#   docker build -t dlcli --build-arg TORCH=cu126 .                                  CUDA 12.6
#   docker run --rm --gpus all --shm-size 2g -v "$PWD:/work" dlcli train --model cnn --data digits
#
# CUDA comes with torch's wheels, so the base image has none; the host needs the driver and the NVIDIA
# Container Toolkit. TORCH names the index of wheels: cpu, cu126, cu128, ...

ARG PYTHON=3.12
FROM python:${PYTHON}-slim

ARG TORCH=cpu
RUN pip install --no-cache-dir torch torchvision --index-url "https://download.pytorch.org/whl/${TORCH}"

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY dlcli dlcli
RUN pip install --no-cache-dir . && rm -rf /src

# Files that a run writes belong to this user: docker run --user "$(id -u):$(id -g)" for your own.
RUN useradd --create-home dlcli
ENV XDG_CACHE_HOME=/tmp/cache TORCH_HOME=/tmp/cache/torch
USER dlcli
WORKDIR /work
ENTRYPOINT ["dlcli"]
