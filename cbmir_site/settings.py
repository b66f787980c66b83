"""All settings, read once from the environment. Every variable is described in docs/operations.md."""

import json
import os
import secrets
from pathlib import Path

import dj_database_url
import django_stubs_ext

from cbmir_site import embedded

BASE_DIR = embedded.BASE_DIR
DATA_DIR = embedded.data_dir()


def env_bool(name: str, default: bool) -> bool:
    return os.environ.get(name, str(default)).strip().lower() in {"1", "true", "yes", "on"}


def env_int(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)


def env_list(name: str, default: str) -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


def env_choice(name: str, choices: tuple[str, ...]) -> str:
    """One of the choices; the first where nothing is set."""
    value = os.environ.get(name) or choices[0]
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}; not {value}.")
    return value


def env_secret(name: str) -> str:
    """A secret from the environment, or one made once and kept in the data directory (mode 600)."""
    if value := os.environ.get(name):
        return value
    path = DATA_DIR / "secrets" / name.lower()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(50))
    return path.read_text().strip()


django_stubs_ext.monkeypatch()

DEBUG = env_bool("CBMIR_DEBUG", False)
SECRET_KEY = env_secret("CBMIR_SECRET_KEY")
PSEUDONYM_KEY = env_secret("CBMIR_PSEUDONYM_KEY")  # turns patient and study identifiers into keyed hashes
ALLOWED_HOSTS = env_list("CBMIR_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = env_list("CBMIR_TRUSTED_ORIGINS", "")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.contrib.postgres",
    "django_htmx",
    "rest_framework",
    "knox",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "cbmir_site",
    "ingest",
    "ml",
    "search",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "cbmir_site.urls"
WSGI_APPLICATION = "cbmir_site.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

DATABASES = {
    "default": dj_database_url.parse(
        os.environ.get("DATABASE_URL", "postgresql://postgres@localhost/cbmir"),
        conn_max_age=600,
        conn_health_checks=True,
    )
}
for number, url in enumerate(env_list("CBMIR_REPLICA_URL", ""), 1):
    DATABASES[f"replica{number}"] = dj_database_url.parse(url, conn_max_age=600, conn_health_checks=True)
    # One that is away is noticed soon: searches are read from the primary then (search/replicas.py).
    DATABASES[f"replica{number}"]["OPTIONS"] = {
        "connect_timeout": 2,
        "tcp_user_timeout": 5_000,
        **DATABASES[f"replica{number}"].get("OPTIONS", {}),
    }
DATABASE_ROUTERS = ["search.replicas.ReplicaRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 1},  # pages do without it
    }
}

# Files: a folder, or any storage of Django's API (S3 through django-storages) by its dotted path.
MEDIA_ROOT = Path(os.environ.get("CBMIR_MEDIA_ROOT") or DATA_DIR / "media")
STORAGES = {
    "default": {
        "BACKEND": os.environ.get("CBMIR_STORAGE") or "django.core.files.storage.FileSystemStorage",
        "OPTIONS": json.loads(os.environ.get("CBMIR_STORAGE_OPTIONS") or "{}"),
    },
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
FILE_UPLOAD_PERMISSIONS = 0o600
STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "search:home"
LOGOUT_REDIRECT_URL = "login"

HTTPS = env_bool("CBMIR_HTTPS", False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SESSION_COOKIE_AGE = 12 * 3600
X_FRAME_OPTIONS = "DENY"

LANGUAGE_CODE = "en"
TIME_ZONE = os.environ.get("CBMIR_TIME_ZONE", "UTC")
USE_TZ = True

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_DEFAULT_QUEUE = "ingest"
CELERY_TASK_ROUTES = {
    "ingest.*": {"queue": "ingest"},
    "search.answer_query": {"queue": "inference", "priority": 0},  # 0 is Redis' highest
    "search.explain": {"queue": "inference", "priority": 3},
    "search.answer_waiting_queries": {"queue": "inference", "priority": 6},
    "search.index_images": {"queue": "indexing"},  # a batch takes long: never in front of a question
    **{  # nor this, which nobody waits for
        f"search.{name}": {"queue": "upkeep"}
        for name in (
            "prepare_versions",
            "rebuild_index",
            "drop_embeddings",
            "probe_recall",
            "find_near_duplicates",
        )
    },
    "ml.*": {"queue": "training"},
}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_connect_timeout": 2,
    "visibility_timeout": 12 * 3600,
    "max_retries": 1,  # nobody waits for a broker that is down
    "interval_start": 0,
}
CELERY_TASK_PUBLISH_RETRY = False  # a lost bell is rung again from the database
CELERY_BEAT_SCHEDULE = {  # what has waited long expires: a busy worker needs one look, not many
    task: {
        "task": task,
        "schedule": 30.0,
        "options": {"expires": 25},
    }
    for task in (
        "ingest.import_queued_files",
        "ml.train_queued_runs",
        "search.index_images",
        "search.answer_waiting_queries",
    )
}
CELERY_BEAT_SCHEDULE |= {
    name: {"task": name, "schedule": seconds, "options": {"expires": expires}}
    for name, seconds, expires in (
        ("search.probe_recall", 3600.0, 1800),
        ("search.find_near_duplicates", 300.0, 280),
        ("ingest.forget_rejected_files", 3600.0, 1800),
        ("ingest.sweep_storage", 3600.0, 1800),
        ("ingest.empty_trash", 3600.0, 1800),
        ("ingest.forget_unfinished_uploads", 3600.0, 1800),
        ("ingest.look_at_watched_folders", 60.0, 50),
    )
}
CELERY_BEAT_SCHEDULE_FILENAME = str(embedded.run_dir() / "celerybeat-schedule")

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "knox.auth.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "PAGE_SIZE": 50,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_VERSIONING_CLASS": None,
}
REST_KNOX = {"TOKEN_TTL": None, "AUTH_HEADER_PREFIX": "Token"}
SPECTACULAR_SETTINGS = {
    "ENUM_NAME_OVERRIDES": {"QueryStatusEnum": "search.models.QueryStatus"},
    "TITLE": "CBMIR API",
    "DESCRIPTION": "Search a collection of medical images by a query image. Not for primary diagnosis.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
}

# Limits on what people bring in.
MAX_UPLOAD_BYTES = env_int("CBMIR_MAX_UPLOAD_MB", 512) * 2**20  # one file, or one archive unpacked
REJECTED_DAYS = env_int("CBMIR_REJECTED_DAYS", 7)  # the bytes of rejected files are kept, to be tried again
TRASH_DAYS = env_int("CBMIR_TRASH_DAYS", 30)  # then the trash is emptied of a data set
UPLOAD_DAYS = env_int("CBMIR_UPLOAD_DAYS", 7)  # what nobody goes on sending is forgotten
IMPORT_ROOTS = env_list("CBMIR_IMPORT_ROOTS", "")  # folders of the server that may be imported from
MAX_FRAMES_PER_FILE = env_int("CBMIR_MAX_FRAMES_PER_FILE", 8)  # informative ones of a file of many
DATA_UPLOAD_MAX_NUMBER_FILES = 5000
DATA_UPLOAD_MAX_NUMBER_FIELDS = 6 * DATA_UPLOAD_MAX_NUMBER_FILES  # labels of each

INDEX_MEMORY_MB = env_int("CBMIR_INDEX_MEMORY_MB", 2048)  # of PostgreSQL, while a search index is built
ENGINE = env_choice("CBMIR_ENGINE", ("auto", "openvino", "torch", "cuda"))  # what runs the network

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    # What they tell quotes the keys of objects, which may name patients.
    "loggers": {name: {"level": "ERROR"} for name in ("botocore", "s3transfer", "urllib3")},
    "root": {"handlers": ["console"], "level": os.environ.get("CBMIR_LOG_LEVEL", "WARNING")},
}
