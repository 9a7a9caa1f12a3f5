"""Sends requests to an OpenAI-compatible endpoint. The API key is sent in a header, and never stored or printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.util.retry import Retry

from stages.common.errors import InputError
from stages.llm import answers
from stages.llm.answers import Request
from stages.llm.config import EndpointSettings
from stages.llm.costs import cost_of

BUSY = (408, 409, 429, 500, 502, 503, 504, 529)
"""Status codes after which another attempt may succeed."""
MAX_PAUSE_S = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request, and the tokens that the endpoint counted; 0 if it does not count."""

    text: str
    num_input_tokens: int
    num_output_tokens: int


@dataclass(slots=True)
class Usage:
    """What was sent to an endpoint."""

    num_requests: int = 0
    num_input_tokens: int = 0
    num_output_tokens: int = 0

    def add(self, answer: Answer) -> None:
        """Counts one answer."""
        self.num_requests += 1
        self.num_input_tokens += answer.num_input_tokens
        self.num_output_tokens += answer.num_output_tokens

    def cost(self, settings: EndpointSettings) -> float | None:
        """Returns the cost at the prices of the settings; None without prices."""
        return cost_of(self.num_input_tokens, self.num_output_tokens, settings)


class ChatClient:
    """Sends requests to an endpoint.

    Raises:
        InputError: the environment variable with the API key is not set.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.usage = Usage()
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

    def answer_all(self, requests: Sequence[Request], on_progress: Callable[[int, int], None]) -> list[str]:
        """Returns the answer to each request. Sends those whose answer is not on this machine, and counts them.

        Args:
            requests: The requests.
            on_progress: Called with the number of answers so far and of all, after each answer.

        Raises:
            InputError: the endpoint refuses a request, or fails in all attempts.
        """
        kept = [answers.load(body) for body in requests]
        missing = [index for index, text in enumerate(kept) if text is None]
        texts = [text or "" for text in kept]
        for done, (number, answer) in enumerate(self._send_all([requests[index] for index in missing]), start=1):
            texts[missing[number]] = answer.text
            self.usage.add(answer)
            on_progress(len(requests) - len(missing) + done, len(requests))
        return texts

    def _send_all(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Yields the index of each request and its answer, as the answers arrive."""
        with ThreadPoolExecutor(self.settings.num_parallel) as pool:
            futures = {pool.submit(self._send, body): index for index, body in enumerate(requests)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _send(self, request: Request) -> Answer:
        body = self._post(request)
        try:
            text = body["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            raise InputError(
                f"the answer of {self._url} has no choices[0].message.content.",
                "Set url to an OpenAI-compatible API.",
                key="url",
            ) from None
        usage = body.get("usage") or {}
        answers.store(request, text)
        return Answer(text, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))

    def _post(self, request: Request) -> dict[str, Any]:
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
