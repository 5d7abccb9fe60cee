"""The side of the Hub that is written to, on loopback: create, preupload, LFS batch, commit; and
reading back what was written.

Every request is kept, so that a test can tell what was asked. A commit is atomic and refuses large
files that never arrived, as the real one does.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qwenft_assets_tests.loopback_server import Answer, LoopbackServer, Request

LFS_SUFFIXES = (".safetensors", ".gguf", ".png", ".bin")
LICENSES = {"apache-2.0", "mit", "cc-by-sa-4.0", "other"}
API = r"/api/(model|dataset)s/([\w.-]+/[\w.-]+)"


def git_blob_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class LoopbackHub(LoopbackServer):
    """Repositories in memory."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files by path, for each repository."""
    commits: dict[str, list[str]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by sha256."""

    def answer(self, request: Request) -> Answer:
        for pattern, handler in (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", self._validate),
            (API + r"/preupload/main", self._preupload),
            (API + r"/commit/main", self._commit),
            (API + r"/tree/[\w.-]+", self._tree),
            (API + r"(?:/revision/[\w.-]+)?", self._info),
            (r"/(?:datasets/)?([\w.-]+/[\w.-]+)/resolve/[\w.-]+/(.+)", self._resolve),
            (r"/(?:datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/lfs/([0-9a-f]{64})", self._store),
        ):
            if match := re.fullmatch(pattern, request.path):
                return handler(request, *match.groups())
        return Answer(404, {"error": f"no such endpoint: {request.path}"})

    def _create(self, request: Request) -> Answer:
        name = f"{request.json['organization']}/{request.json['name']}"
        if name in self.repos:
            return Answer(409, {"error": "exists", "url": f"{self.url}/{name}"})
        self.repos[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        self.commits[name] = [hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()]
        return Answer(200, {"url": f"{self.url}/{name}"})

    def _validate(self, request: Request) -> Answer:
        match = re.match(r"---\n(.*?)\n---\n", request.json["content"], re.DOTALL)
        problems = validate_card(yaml.safe_load(match[1])) if match else ["no metadata"]
        errors = [{"message": problem} for problem in problems]
        return Answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def _info(self, request: Request, kind: str, repo: str) -> Answer:
        if repo not in self.repos:
            return Answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        siblings = [{"rfilename": path} for path in self.repos[repo]]
        sha = self.commits[repo][-1]
        return Answer(200, {"id": repo, "sha": sha, "siblings": siblings, "tags": []})

    def _tree(self, request: Request, kind: str, repo: str) -> Answer:
        files = self.repos[repo].items()
        return Answer(
            200,
            [
                {"type": "file", "path": path, "oid": git_blob_oid(content), "size": len(content)}
                for path, content in files
            ],
        )

    def _resolve(self, request: Request, repo: str, path: str) -> Answer:
        content = self.repos.get(repo, {}).get(path)
        if content is None:
            return Answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha256(content).hexdigest()
        return Answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": self.commits[repo][-1]})

    def add_repo(self, repo: str, folder: Path) -> None:
        """Somebody else's repository, with the files of a folder."""
        files = (path for path in folder.iterdir() if path.is_file())
        self.repos[repo] = {path.name: path.read_bytes() for path in files}
        self.commits[repo] = [hashlib.sha1(repo.encode(), usedforsecurity=False).hexdigest()]

    def _preupload(self, request: Request, kind: str, repo: str) -> Answer:
        def described(path: str) -> dict[str, Any]:
            lfs = path.endswith(LFS_SUFFIXES)
            content = self.repos[repo].get(path)
            oid = None
            if content is not None:
                oid = hashlib.sha256(content).hexdigest() if lfs else git_blob_oid(content)
            mode = "lfs" if lfs else "regular"
            return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

        files = [described(file["path"]) for file in request.json["files"]]
        return Answer(200, {"files": files})

    def _batch(self, request: Request, repo: str) -> Answer:
        objects: list[dict[str, Any]] = []
        for wanted in request.json["objects"]:
            found = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                found["actions"] = {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}"}}
            objects.append(found)
        return Answer(200, {"transfer": "basic", "objects": objects})

    def _store(self, request: Request, oid: str) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != oid:
            return Answer(400, {"error": "hash differs"})
        self.objects[oid] = request.body
        return Answer(200, {})

    def _commit(self, request: Request, kind: str, repo: str) -> Answer:
        lines = [json.loads(line) for line in request.body.splitlines() if line]
        header = lines[0]["value"]
        if header.get("parentCommit") not in {None, self.commits[repo][-1]}:
            return Answer(412, {"error": "A commit has happened since"})
        files = dict(self.repos[repo])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    return Answer(400, {"error": f"{value['path']} was not uploaded"})
                files[value["path"]] = self.objects[value["oid"]]
            else:
                del files[value["path"]]
        oid = hashlib.sha1(request.body, usedforsecurity=False).hexdigest()
        self.repos[repo] = files
        self.commits[repo].append(oid)
        prefix = "datasets/" if kind == "dataset" else ""
        url = f"{self.url}/{prefix}{repo}/commit/{oid}"
        return Answer(200, {"commitUrl": url, "commitOid": oid, "success": True})


def validate_card(metadata: dict[str, Any]) -> list[str]:
    """What the Hub's rules object to, of those that cards here could break."""
    problems = [f"license {metadata.get('license')!r}"] * (metadata.get("license") not in LICENSES)
    if metadata.get("license") == "other" and not metadata.get("license_name"):
        problems.append("license_name is needed for license other")
    problems += [
        f"language {code!r}"
        for code in metadata.get("language", [])
        if not re.fullmatch(r"[a-z]{2,3}", code)
    ]
    ids = [metadata.get("base_model"), *metadata.get("datasets", [])]
    problems += [
        f"{name!r} is no repository id"
        for name in ids
        if name is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    ]
    for model in metadata.get("model-index", []):
        for result in model["results"]:
            if not {"type", "name"} <= result["dataset"].keys() or "type" not in result["task"]:
                problems.append("model-index: a result without dataset or task")
            problems += [
                "model-index: a metric without a value"
                for metric in result["metrics"]
                if not isinstance(metric.get("value"), (int, float))
            ]
    return problems
