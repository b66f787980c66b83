"""What goes wrong with an object storage, as a code and a sentence for the person."""

import re

from botocore import exceptions as errors

from ingest.directories import GONE

BROKEN_OFF = ("broken_off", "The object storage broke off in the middle of the file.")
DENIED = ("access_denied", "The object storage denies access with the credentials that this server has.")
NO_CREDENTIALS = ("no_credentials", "This server has no credentials for the object storage, or not all.")
NO_STORAGE = ("no_storage", "What answers as the object storage does not speak S3, or its address is wrong.")
NOT_ACCEPTED = ("bad_credentials", "The object storage does not accept the credentials of this server.")
NOT_SECURE = ("not_secure", "No secure connection: the storage has no HTTPS, or a certificate unknown here.")
UNREACHABLE = ("unreachable", "The object storage does not answer.")
BY_CODE = {  # of S3, or the HTTP status where an answer has none
    "NoSuchBucket": ("no_bucket", "There is no bucket of this name."),
    "InvalidObjectState": ("archived", "The file lies in an archive tier. Restore it in the storage first."),
    **dict.fromkeys(("NoSuchKey", "404"), GONE),
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "AccountProblem", "403"), DENIED),
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch", "401"), NOT_ACCEPTED),
    **dict.fromkeys(("ExpiredToken", "InvalidToken"), NOT_ACCEPTED),
}
BY_KIND: dict[type[Exception], tuple[str, str]] = {  # the first that fits
    errors.SSLError: NOT_SECURE,
    errors.IncompleteReadError: BROKEN_OFF,
    errors.ResponseStreamingError: BROKEN_OFF,
    errors.HTTPClientError: UNREACHABLE,
    errors.ConnectionError: UNREACHABLE,
    errors.NoCredentialsError: NO_CREDENTIALS,
    errors.PartialCredentialsError: NO_CREDENTIALS,
    errors.CredentialRetrievalError: NO_CREDENTIALS,
    errors.ProfileNotFound: NO_CREDENTIALS,
    errors.ConfigParseError: NO_CREDENTIALS,
    errors.TokenRetrievalError: NO_CREDENTIALS,
    errors.SSOError: NO_CREDENTIALS,
}
# The last two: an endpoint that is no address, and answers in which something is missing.
FAILURES = (errors.BotoCoreError, errors.ClientError, ValueError, KeyError)


def reason_of(error: Exception) -> tuple[str, str]:
    """Code and sentence for one of FAILURES."""
    if isinstance(error, errors.ClientError):
        code = re.sub(r"\W", "", str(error.response.get("Error", {}).get("Code", "")))[:40]
        return BY_CODE.get(code, ("storage_error", f"The object storage answered with an error ({code})."))
    return next((reason for kind, reason in BY_KIND.items() if isinstance(error, kind)), NO_STORAGE)
