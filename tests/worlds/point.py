"""A point that is told how fast to go along x and y: the body of hidden_goal and two_ways."""

AXES = ("x", "y")
XML = """
<mujoco>
  <option integrator="implicitfast" gravity="0 0 0"/>
  <default><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <body name="point">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <geom type="sphere" size="0.05" mass="1"/>
    </body>
  </worldbody>
  <actuator><velocity joint="x" kv="1000"/><velocity joint="y" kv="1000"/></actuator>
</mujoco>
"""
