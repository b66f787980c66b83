"""Previews out of the file storage, never out of a public folder."""

import mimetypes

from django.db.models.fields.files import FieldFile
from django.http import FileResponse, Http404

CACHE_CONTROL = "private, max-age=86400, immutable"  # stored under the hash of their content


def preview_response(preview: FieldFile) -> FileResponse:
    """The picture itself; 404 where there is none."""
    if not preview:
        raise Http404("There is no preview.")
    try:
        file = preview.open("rb")
    except FileNotFoundError:
        raise Http404("The preview is gone.") from None
    content_type = mimetypes.guess_type(preview.name or "")[0] or "application/octet-stream"
    return FileResponse(file, content_type=content_type, headers={"Cache-Control": CACHE_CONTROL})
