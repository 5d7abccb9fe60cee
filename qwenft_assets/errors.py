"""All errors that a user can fix, as one tree.

QwenftError
├── ConfigError        a setting, or the file it stands in
├── StorageError       the storage root: cannot be written, is full, holds damaged files
├── SourceError        an upstream file: missing, broken, empty, of another schema
├── MixtureError       too few rows, a source not yet sampled
├── BaseModelError     the base model cannot be found or read
├── DeviceError        the device asked for is not there
├── WorkerError        the system killed a process of training or evaluation
├── TrainingError      training itself: loss not finite, nothing to learn from
├── EvaluationError    nothing to evaluate, adapter and data that do not belong together
├── AdapterError       no such adapter, or one of another base model
├── PromptError        what is asked cannot be read, or is longer than the window
├── ServeError         the server cannot start as asked
├── ReleaseError       no such version in the history
├── GateRefusedError   the release gate said no: nothing is broken
└── PublishingError    what must not leave, a place that says no, a copy that is not what it claims

A message is one line: what, where, how to fix. The command line prints it and exits with 2, or with
3 after a refusal of the gate; every other exception is a bug and keeps its traceback.
"""


class QwenftError(Exception):
    """An error the user can fix; the message says what, where and how."""


class ConfigError(QwenftError):
    """A setting, or the file it stands in, is wrong."""


class StorageError(QwenftError):
    """The storage root cannot be used."""


class SourceError(QwenftError):
    """An upstream file is missing, broken, empty or of another schema."""


class MixtureError(QwenftError):
    """The sources at hand cannot make the mixture asked for."""


class BaseModelError(QwenftError):
    """The base model cannot be found or read."""


class DeviceError(QwenftError):
    """The device asked for is not there, or too small."""


class WorkerError(QwenftError):
    """A worker process was killed or stopped from outside."""


class TrainingError(QwenftError):
    """Training could not produce a usable adapter."""


class EvaluationError(QwenftError):
    """The evaluation could not produce a meaningful figure."""


class AdapterError(QwenftError):
    """There is no such adapter, or it belongs to another base model."""


class PromptError(QwenftError):
    """What is asked cannot be read, or does not fit the context window."""


class ServeError(QwenftError):
    """The server cannot start as asked."""


class ReleaseError(QwenftError):
    """The registry of releases cannot do what was asked."""


class PublishingError(QwenftError):
    """Something must not leave, cannot be sent, or is not what its manifest says."""


class GateRefusedError(QwenftError):
    """The release gate said no; the run did its work, and the champion stays."""


def error_by_name(name: str) -> type[QwenftError]:
    """The class of this tree with that name, `QwenftError` itself for an unknown one.

    A worker process reports its error by class name and message; its parent raises the same again.
    """
    by_name = {kind.__name__: kind for kind in QwenftError.__subclasses__()}
    return by_name.get(name, QwenftError)
