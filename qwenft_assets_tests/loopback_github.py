"""GitHub's releases on loopback: drafts, assets, half uploads, and what `latest` is."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from qwenft_assets_tests.loopback_server import Answer, LoopbackServer, Request

RELEASES = r"/repos/[\w.-]+/[\w.-]+/releases"


@dataclass
class LoopbackGitHub(LoopbackServer):
    """The releases of one repository."""

    releases: list[dict[str, Any]] = field(default_factory=list)
    contents: dict[int, bytes] = field(default_factory=dict)
    """Of assets, by id."""
    latest: int | None = None
    page: int = 2
    """Items on one page, so that pages matter."""
    last_id: int = 0

    def answer(self, request: Request) -> Answer:
        if request.headers.get("Authorization") != "Bearer secret-token":
            return Answer(401, {"message": "Bad credentials"})
        for method, pattern, handler in (
            ("GET", RELEASES, self._list),
            ("POST", RELEASES, self._create),
            ("GET", RELEASES + "/latest", self._show_latest),
            ("GET", r"/download/(\d+)", self._download),
            ("PATCH", RELEASES + r"/(\d+)", self._edit),
            ("GET", RELEASES + r"/(\d+)/assets", self._assets),
            ("POST", r"/uploads/(\d+)/assets", self._upload),
            ("DELETE", RELEASES + r"/assets/(\d+)", self._delete),
        ):
            match = re.fullmatch(pattern, request.path)
            if match and method == request.method:
                return handler(request, *map(int, match.groups()))
        return Answer(404, {"message": "Not Found"})

    def published_files(self) -> dict[str, bytes]:
        """What a visitor of the latest release can download."""
        release = next(r for r in self.releases if r["id"] == self.latest)
        return {asset["name"]: self.contents[asset["id"]] for asset in release["assets"]}

    def keep_half(self, path: str, query: dict[str, str]) -> None:
        """As GitHub does: the name is taken by an asset that never became whole."""
        if match := re.fullmatch(r"/uploads/(\d+)/assets", path):
            self._add(int(match[1]), query["name"], b"", "starter")

    def _release(self, release_id: int) -> dict[str, Any]:
        return next(release for release in self.releases if release["id"] == release_id)

    def _paged(self, items: list[Any], request: Request) -> Answer:
        start = int(request.query.get("page", "1")) * self.page - self.page
        headers = {}
        if start + self.page < len(items):
            following = int(request.query.get("page", "1")) + 1
            headers = {"Link": f'<{self.url}{request.path}?page={following}>; rel="next"'}
        return Answer(200, items[start : start + self.page], headers)

    def _list(self, request: Request) -> Answer:
        return self._paged(self.releases[::-1], request)

    def _show_latest(self, request: Request) -> Answer:
        if self.latest is None:
            return Answer(404, {"message": "Not Found"})
        return Answer(200, self._release(self.latest))

    def _download(self, request: Request, asset_id: int) -> Answer:
        return Answer(200, self.contents[asset_id])

    def _create(self, request: Request) -> Answer:
        self.last_id += 1
        release = {
            **request.json,
            "id": self.last_id,
            "assets": [],
            "upload_url": f"{self.url}/uploads/{self.last_id}/assets{{?name,label}}",
            "html_url": f"{self.url}/releases/{request.json['tag_name']}",
        }
        self.releases.append(release)
        return Answer(201, release)

    def _edit(self, request: Request, release_id: int) -> Answer:
        release = self._release(release_id)
        release.update(request.json)
        if request.json.get("make_latest") == "true" and not release["draft"]:
            self.latest = release_id
        return Answer(200, release)

    def _assets(self, request: Request, release_id: int) -> Answer:
        return self._paged(self._release(release_id)["assets"], request)

    def _upload(self, request: Request, release_id: int) -> Answer:
        names = [asset["name"] for asset in self._release(release_id)["assets"]]
        if request.query["name"] in names:
            return Answer(422, {"message": "Validation Failed: already_exists"})
        return Answer(201, self._add(release_id, request.query["name"], request.body, "uploaded"))

    def _add(self, release_id: int, name: str, content: bytes, state: str) -> dict[str, Any]:
        self.last_id += 1
        asset = {
            "id": self.last_id,
            "name": name,
            "size": len(content),
            "state": state,
            "browser_download_url": f"{self.url}/download/{self.last_id}",
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        }
        self._release(release_id)["assets"].append(asset)
        self.contents[self.last_id] = content
        return asset

    def _delete(self, request: Request, asset_id: int) -> Answer:
        for release in self.releases:
            release["assets"] = [a for a in release["assets"] if a["id"] != asset_id]
        return Answer(204, None)
