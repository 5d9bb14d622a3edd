"""Errors that users see: each message says what was wrong, with what value, and what to do."""

from __future__ import annotations


class VisavisError(Exception):
    """Base of all errors that are the input's fault. `code` is a stable, machine-readable word."""

    code = "error"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class PhotoError(VisavisError):
    """A photo that cannot be enrolled (codes: not_a_picture, too_large, no_face, several_faces, face_too_small,
    profile)."""

    code = "photo"


class VideoError(VisavisError):
    """A video that cannot be read or tracked."""

    code = "video"


class AvatarError(VisavisError):
    """A file that is no avatar, is cut short, or is of another version."""

    code = "avatar"


class MotionError(VisavisError):
    """A motion file that is broken or names unknown channels."""

    code = "motion"


class AudioError(VisavisError):
    """Audio that cannot be used: unknown sample rate, wrong shape or type."""

    code = "audio"


class QueueFullError(VisavisError):
    """More speech was pushed than the session may hold; nothing of that push was taken."""

    code = "queue_full"
