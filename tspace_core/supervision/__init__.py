"""Named tasks and the bounded queues between them: started, watched and stopped in one place."""
