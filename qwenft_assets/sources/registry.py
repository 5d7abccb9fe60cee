"""Which code reads a source, found by the source's name.

A field of `SourcesConfig` registers a source; `scan_<name>` in `sources/<name>.py`, or in the file that
its settings name, reads it. `REPO_ID` there is its dataset repository; a source without one reads
files of the user's own.
"""

from functools import cache
from importlib import import_module
from types import ModuleType

from qwenft_assets.config import SOURCE_NAMES, Config, Source, SourceName, SourcesConfig
from qwenft_assets.sources.origin import SAMPLES_FOLDER
from qwenft_assets.sources.scan import Scan


def scan_source(config: Config, source: SourceName) -> Scan:
    """What the config wants of a source, ready to be read.

    Raises:
        SourceError: The source is missing or broken.
    """
    return getattr(_module(source), f"scan_{source}")(config)


@cache
def repositories() -> dict[SourceName, str]:
    """The dataset repository of each source that has one, in the order of the partitions."""
    found = {name: getattr(_module(name), "REPO_ID", None) for name in SOURCE_NAMES}
    return {name: repo_id for name, repo_id in found.items() if repo_id}


def bundled_sources() -> list[SourceName]:
    """The sources that can be sampled without a network: the user's own, and those in data/samples."""
    public = repositories()
    return [n for n in SOURCE_NAMES if n not in public or (SAMPLES_FOLDER / public[n]).is_dir()]


def _module(source: SourceName) -> ModuleType:
    settings = SourcesConfig.model_fields[source].annotation
    named = settings.module if isinstance(settings, type) and issubclass(settings, Source) else None
    return import_module(f"qwenft_assets.sources.{named or source}")
