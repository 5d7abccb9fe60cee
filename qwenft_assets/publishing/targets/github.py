"""A copy as the assets of a GitHub release.

The release is a draft until every asset is whole, and only then becomes the latest, so that nobody
ever sees half of one. https://docs.github.com/rest/releases
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from qwenft_assets.errors import PublishingError
from qwenft_assets.progress import ReportProgress
from qwenft_assets.publishing.bundle import Bundle
from qwenft_assets.publishing.targets.target import Outcome, PlannedFile, ask_place

if TYPE_CHECKING:
    import httpx

MAX_ASSET_BYTES = 2 * 2**30
"""GitHub takes assets below this."""
TIMEOUT_SECONDS = 60.0
PAGE = 100
CHUNK_BYTES = 1 << 20
ADVICE = "Check GITHUB_TOKEN (it needs to write contents), GITHUB_API_URL and the network."

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class GitHubTarget:
    """Releases of one repository, a tag for each bundle."""

    repo: str

    def describe(self, bundle: Bundle) -> str:
        """The repository and the tag."""
        return f"release {bundle.name} of {self.repo} on GitHub"

    def plan(self, bundle: Bundle) -> list[PlannedFile]:
        """Every file is an asset.

        Raises:
            PublishingError: A file cannot be one.
        """
        for path, size in bundle.files.items():
            if "/" in path or path.startswith("."):
                raise PublishingError(
                    f"{path}: release assets have no folders. Use --target folder, git-lfs or hub."
                )
            if size >= MAX_ASSET_BYTES:
                raise PublishingError(
                    f"{path}: {size / 2**30:.1f} GiB, GitHub takes less than 2. Lower "
                    "publishing.shard_gb."
                )
        return [PlannedFile(path, size, "asset") for path, size in bundle.files.items()]

    def publish(self, bundle: Bundle, report_progress: ReportProgress) -> Outcome:
        """Complete a draft of this tag, then publish it.

        Raises:
            PublishingError: GitHub said no, went on failing, or has a release of this tag with other
                files.
        """
        self.plan(bundle)
        with self._client() as client:
            release = self._find(client, bundle.name)
            if release and not release["draft"]:
                self._require_same(client, release, bundle)
                return Outcome(release["html_url"], unchanged=True)
            if release is None:
                release = self._create_draft(client, bundle)
            self._upload_missing(client, release, bundle, report_progress)
            self._require_same(client, release, bundle)
            published = self._send(
                client,
                "PATCH",
                f"/repos/{self.repo}/releases/{release['id']}",
                json={"draft": False, "make_latest": "true", **_described(bundle)},
            ).json()
        return Outcome(published["html_url"], unchanged=False)

    def _client(self) -> AbstractContextManager["httpx.Client"]:
        import httpx

        token = os.environ.get("GITHUB_TOKEN")
        if not token:
            raise PublishingError(
                "GITHUB_TOKEN is not set. Export a token that may write contents of "
                f"{self.repo}; in GitHub Actions: `permissions: contents: write`."
            )
        return httpx.Client(
            base_url=os.environ.get("GITHUB_API_URL") or "https://api.github.com",
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {token}",
                "X-GitHub-Api-Version": "2022-11-28",
            },
            timeout=TIMEOUT_SECONDS,
            follow_redirects=True,
        )

    def _find(self, client: "httpx.Client", tag: str) -> dict[str, Any] | None:
        """The release of a tag, drafts too, which GitHub finds in the list only."""
        releases = self._all(client, f"/repos/{self.repo}/releases")
        found = [release for release in releases if release["tag_name"] == tag]
        return min(found, key=lambda release: (release["draft"], release["id"]), default=None)

    def _create_draft(self, client: "httpx.Client", bundle: Bundle) -> dict[str, Any]:
        def create() -> dict[str, Any]:
            # Looked for each time: the answer to a first attempt may have been lost.
            found = self._find(client, bundle.name)
            if found is not None:
                return found
            draft = {"tag_name": bundle.name, "draft": True, "make_latest": "false"}
            answer = client.post(
                f"/repos/{self.repo}/releases", json={**draft, **_described(bundle)}
            )
            return answer.raise_for_status().json()

        return self._ask(create)

    def _upload_missing(
        self,
        client: "httpx.Client",
        release: dict[str, Any],
        bundle: Bundle,
        report_progress: ReportProgress,
    ) -> None:
        digests = bundle.manifest.hashes
        total, done = sum(bundle.files.values()), 0
        for path, size in bundle.files.items():
            before = done

            def upload(path: str = path, size: int = size, before: int = before) -> None:
                there = self._assets(client, release).get(path)
                if there and _is_whole(there, size, digests.get(path)):
                    return
                if there:  # half an upload, or another version's
                    self._delete(client, there)
                with (bundle.folder / path).open("rb") as file:
                    answer = client.post(
                        re.sub(r"\{.*\}$", "", release["upload_url"]),
                        params={"name": path},
                        headers={
                            "Content-Type": "application/octet-stream",
                            "Content-Length": str(size),
                        },
                        content=_chunks(
                            file, lambda sent: report_progress(before + sent, total, path)
                        ),
                    )
                answer.raise_for_status()

            self._ask(upload)
            done += size
            report_progress(done, total, path)
        for path, asset in self._assets(client, release).items():
            if path not in bundle.files:
                self._delete(client, asset)

    def _require_same(
        self, client: "httpx.Client", release: dict[str, Any], bundle: Bundle
    ) -> None:
        digests = bundle.manifest.hashes
        assets = self._assets(client, release)
        wrong = [
            path
            for path, size in bundle.files.items()
            if path not in assets or not _is_whole(assets[path], size, digests.get(path))
        ]
        if wrong:
            raise PublishingError(
                f"release {bundle.name} of {self.repo} is there with another {wrong[0]}. What is "
                "published stays as it is: delete that release first if it shall be replaced."
            )

    def _assets(self, client: "httpx.Client", release: dict[str, Any]) -> dict[str, dict[str, Any]]:
        found = self._all(client, f"/repos/{self.repo}/releases/{release['id']}/assets")
        return {asset["name"]: asset for asset in found}

    def _delete(self, client: "httpx.Client", asset: dict[str, Any]) -> None:
        client.delete(f"/repos/{self.repo}/releases/assets/{asset['id']}").raise_for_status()

    def _all(self, client: "httpx.Client", path: str) -> Iterator[dict[str, Any]]:
        """Every item of a paginated list."""
        url: str | None = f"{path}?per_page={PAGE}"
        while url:
            answer = self._send(client, "GET", url)
            yield from answer.json()
            url = answer.links.get("next", {}).get("url")

    def _send(self, client: "httpx.Client", method: str, url: str, **options: Any) -> Any:
        return self._ask(lambda: client.request(method, url, **options).raise_for_status())

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        return ask_place(f"{self.repo} on GitHub", request, ADVICE)


def _described(bundle: Bundle) -> dict[str, str]:
    """Name and text of the release: the card, without its metadata block."""
    text = re.sub(r"\A---\n.*?\n---\n+", "", bundle.card, flags=re.DOTALL)
    return {"name": bundle.name, "body": text}


def _is_whole(asset: dict[str, Any], size: int, sha256: str | None) -> bool:
    digest = asset.get("digest")  # assets of old servers have none
    return (
        asset["state"] == "uploaded"
        and asset["size"] == size
        and (not digest or sha256 is None or digest == f"sha256:{sha256}")
    )


def _chunks(file: Any, report_sent: Callable[[int], None]) -> Iterator[bytes]:
    sent = 0
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
        sent += len(chunk)
        report_sent(sent)
