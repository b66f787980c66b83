FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 CBMIR_DATA_DIR=/data \
    NUMBA_CACHE_DIR=/compiled
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN useradd --system --uid 10001 cbmir && mkdir /data /compiled && chown cbmir /data /compiled
USER cbmir
VOLUME /data
EXPOSE 8000
CMD ["gunicorn", "cbmir_site.wsgi", "--bind", "0.0.0.0:8000", "--worker-class", "gthread", "--workers", "2", "--threads", "8", "--timeout", "300"]
