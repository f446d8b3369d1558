"""Whether the hub answers. A program: argument is a repository, or nothing; one JSON object on standard output."""

import json
import sys

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from backend.engine.loading.failures import FOREIGN, one_line

_SECONDS = 10.0


def look(repository: str) -> dict[str, object]:
    """The hub's answer, or why there is none."""
    api = HfApi()
    try:
        if repository:
            found = api.model_info(repository, timeout=_SECONDS, files_metadata=True)
            size = sum(file.size or 0 for file in found.siblings or () if file.rfilename.endswith(".safetensors"))
            return {"endpoint": constants.ENDPOINT, "bytes": size}
        next(iter(api.list_models(limit=1)), None)
    except GatedRepoError:
        return {"refused": f"{repository} is gated", "advice": "Accept its terms on the hub and set HF_TOKEN."}
    except RepositoryNotFoundError:
        return {"refused": f"{repository} does not exist, or is private", "advice": "Check the name, or set HF_TOKEN."}
    except OfflineModeIsEnabled:
        return {"refused": "offline mode is on", "advice": "Unset HF_HUB_OFFLINE to download models."}
    except HfHubHTTPError as error:
        return {"refused": f"{constants.ENDPOINT} answers {error.response.status_code}", "advice": "Check HF_ENDPOINT."}
    return {"endpoint": constants.ENDPOINT}


def main() -> None:
    """Look, and say."""
    try:
        found = look(sys.argv[1] if len(sys.argv) > 1 else "")
    except FOREIGN as error:
        advice = "Check the network, a proxy (HTTPS_PROXY) and HF_ENDPOINT."
        found = {"refused": f"{constants.ENDPOINT} cannot be reached: {one_line(error)[:200]}", "advice": advice}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
