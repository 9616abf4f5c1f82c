"""The object storage as a Dagster resource.

Importing dagster-aws takes over a second and 50 MB, so this module is imported only where something of this
installation lies in a bucket.
"""

from typing import Any

from dagster_aws.s3 import S3Resource

from tspace_core.config import settings
from tspace_core.errors import ConfigError


class ObjectStorageResource(S3Resource):
    """The object storage of ``settings().s3``: dagster-aws' resource with the client that the core uses.

    Server and region are shown in the page; credentials come from the environment. The client is the core's,
    so that addressing, time limits, tries and checksums are those that every part of tspace was tested with.
    """

    def get_client(self) -> Any:
        """The client; one a process.

        Raises:
            ConfigError: the resource was configured for another server than the settings name.
        """
        from tspace_core.objects.client import s3_client

        wanted = settings().s3
        if (self.endpoint_url, self.region_name) != (wanted.endpoint, wanted.region):
            message = (
                f"resource s3 is configured for {self.endpoint_url} in {self.region_name}, the settings say "
                f"{wanted.endpoint} in {wanted.region}: set TSPACE_S3__ENDPOINT and TSPACE_S3__REGION instead"
            )
            raise ConfigError(message)
        return s3_client()


def object_storage() -> ObjectStorageResource:
    """The resource for the settings of this process."""
    found = settings().s3
    return ObjectStorageResource(endpoint_url=found.endpoint, region_name=found.region)
