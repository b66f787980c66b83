"""Notices what goes wrong in a browser without anybody seeing it."""

from dataclasses import dataclass, field

from playwright.sync_api import BrowserContext, ConsoleMessage, Request, Response

LEFT_BEHIND = "net::ERR_ABORTED"  # a request that was under way when the page was left
ALSO_A_RESPONSE = "Failed to load resource"  # the console's word for a response that is noted already


@dataclass
class Watch:
    """Collects console errors, failed requests, error pages and requests to any other host."""

    address: str
    problems: list[str] = field(default_factory=list)
    expected_statuses: set[int] = field(default_factory=set)

    def over(self, context: BrowserContext) -> None:
        context.on("console", self._console)
        context.on("weberror", lambda error: self.problems.append(f"script error: {error.error}"))
        context.on("request", self._request)
        context.on("requestfailed", self._request_failed)
        context.on("response", self._response)

    def expect(self, *statuses: int) -> None:
        """Take answers of these statuses for granted."""
        self.expected_statuses |= set(statuses)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(ALSO_A_RESPONSE):
            self.problems.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.address}/", "data:", "blob:")):
            self.problems.append(f"request to another host: {request.url}")

    def _request_failed(self, request: Request) -> None:
        if request.failure != LEFT_BEHIND:
            self.problems.append(f"request failed: {request.url} ({request.failure})")

    def _response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected_statuses:
            self.problems.append(f"{response.status}: {response.request.method} {response.url}")
