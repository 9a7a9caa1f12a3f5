"""Sends requests to an OpenAI-compatible endpoint. The API key is sent in a header, and never stored or printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.util.retry import Retry

from stages.common.errors import InputError
from stages.llm import answers
from stages.llm.config import LlmSettings
from stages.llm.questions import Message

BUSY = (408, 409, 429, 500, 502, 503, 504, 529)
"""Status codes after which another attempt may succeed."""
MAX_PAUSE_S = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request, and the tokens that the endpoint counted; 0 if it does not count."""

    text: str
    num_input_tokens: int
    num_output_tokens: int


class ChatClient:
    """Sends chats to the endpoint of a member.

    Raises:
        InputError: the environment variable with the API key is not set.
    """

    def __init__(self, settings: LlmSettings) -> None:
        self.settings = settings
        self._url = settings.url.rstrip("/") + "/chat/completions"
        self._session = requests.Session()
        pauses = Retry(
            total=settings.max_attempts - 1,
            backoff_factor=1,
            backoff_max=MAX_PAUSE_S,
            backoff_jitter=0.5,
            status_forcelist=BUSY,
            allowed_methods=["POST"],
            raise_on_status=False,
        )
        adapter = HTTPAdapter(max_retries=pauses, pool_maxsize=settings.num_parallel)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        if (key := settings.api_key()) is not None:
            self._session.auth = _BearerToken(key)  # as a plain header, a password in ~/.netrc would replace it

    def send_all(self, chats: Sequence[Sequence[Message]]) -> Iterator[tuple[int, Answer]]:
        """Yields the index of each chat and its answer, as the answers arrive.

        Raises:
            InputError: the endpoint refuses a request, or fails in all attempts.
        """
        with ThreadPoolExecutor(self.settings.num_parallel) as pool:
            futures = {pool.submit(self._send, chat): index for index, chat in enumerate(chats)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _send(self, chat: Sequence[Message]) -> Answer:
        body = self._post(answers.request(self.settings, chat))
        try:
            text = body["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            raise InputError(
                f"the answer of {self._url} has no choices[0].message.content.",
                "Set url to an OpenAI-compatible API.",
                key="url",
            ) from None
        usage = body.get("usage") or {}
        answers.store(self.settings, chat, text)
        return Answer(text, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))

    def _post(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            response = self._session.post(self._url, json=request, timeout=self.settings.timeout_s)
        except requests.RequestException as error:
            raise InputError(
                f"{self._url} did not answer in {self.settings.max_attempts} attempts ({type(error).__name__}).",
                "Check url, or start the endpoint, and run again. Answers that arrived are kept.",
                key="url",
            ) from None  # the chain of errors may show the header with the key
        if response.status_code in (401, 403):
            raise InputError(
                f"{self._url} refuses access (status {response.status_code}).",
                "Check the API key in the variable that api_key_variable names.",
                key="api_key_variable",
            )
        if not response.ok:
            raise InputError(
                f"{self._url} answers with status {response.status_code}: {_excerpt(response.text)}.",
                "Check url and model, or run again later. Answers that arrived are kept.",
                key="url",
            )
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise InputError(
                f"the answer of {self._url} is not a JSON object.", "Set url to an OpenAI-compatible API.", key="url"
            )
        return body


class _BearerToken(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _excerpt(text: str) -> str:
    return " ".join(text.split())[:200] or "no text"
