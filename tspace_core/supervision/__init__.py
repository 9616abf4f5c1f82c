"""Named tasks and the bounded queues between them: started, watched and stopped in one place."""

from tspace_core.supervision.pipeline import Pipeline, PipelineClosed, PipelineEmpty
from tspace_core.supervision.signals import stop_on_signals
from tspace_core.supervision.supervisor import Supervisor

__all__ = ["Pipeline", "PipelineClosed", "PipelineEmpty", "Supervisor", "stop_on_signals"]
