# The image that only serves, without Ray, DeepSpeed and MLflow. Build it in the project folder:
#
#   docker build --file cluster/deploy/serve.Dockerfile --tag clozeline-serve:0.1.0 .
#   docker run --read-only --tmpfs /tmp --publish 127.0.0.1:5001:5001 --volume /path/of/a/model:/model:ro \
#       --volume clozeline-cache:/clozeline/cache clozeline-serve:0.1.0

ARG PYTHON=3.11
FROM python:${PYTHON}-slim
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --uid 1000 --create-home clozeline
WORKDIR /opt/clozeline
COPY constraints.txt cluster/deploy/serve-requirements.txt ./
# torch for CPUs. The one of the default index has gigabytes of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-compile --constraint constraints.txt --extra-index-url "$TORCH_INDEX" --requirement serve-requirements.txt
COPY pyproject.toml hatch_build.py README.md LICENSE clozeline.py ./
COPY pipelines pipelines
COPY stages stages
COPY cluster cluster
# The packages that the command `serve` does not use stay away. Bytecode is written for the modules that it imports.
RUN pip install --constraint constraints.txt --no-deps . \
    && python -c "import pipelines.cli.serve, pipelines.cli.predict, pipelines.serving.prompt_predictor" \
    && python -c "import stages.common.models.encoders.text_classifier" \
    && install --directory --owner=clozeline --group=clozeline /clozeline/cache
# A folder of a prompt reads its backbone from this cache.
ENV CLOZELINE_CACHE=/clozeline/cache \
    HF_HOME=/clozeline/cache/huggingface
USER 1000
WORKDIR /home/clozeline
EXPOSE 5001
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5001/health')"]
CMD ["clozeline", "serve", "/model", "--host", "0.0.0.0"]
