"""The simulated world: truck, drivers, cycles, VCU, and logs recorded from them.

Simulated things live here and nowhere else. ``fleet.Fleet`` drives many vehicles at once,
``recorder.record_drive`` writes a drive as a CAN log, ``environment.TorqueMapEnv`` is a Gymnasium
environment.
"""
