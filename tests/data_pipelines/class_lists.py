"""The classes of published datasets, in the order of their labels: what names in the wild look like."""

# Moments in Time, first release (arXiv 1801.03150).
_MOMENTS_IN_TIME = """
    clapping praying dropping burying covering flooding leaping drinking slapping cuddling sleeping preaching
    raining stitching spraying twisting coaching submerging breaking tuning boarding running destroying competing
    giggling shoveling chasing flicking pouring buttoning hammering carrying surfing pulling squatting aiming
    crouching tapping skipping washing winking queuing locking stopping sneezing flipping sewing clipping working
    rocking asking playing+fun camping plugging pedaling constructing slipping sweeping screwing shrugging
    hitchhiking cracking scratching trimming selling marching stirring kissing jumping starting clinging socializing
    picking splashing licking kicking sliding filming driving handwriting steering filling crashing stealing
    pressing shouting hiking vacuuming pointing giving diving hugging building swerving dining floating cheerleading
    leaning sailing singing playing hitting bubbling joining bathing raising sitting drawing protesting rinsing
    coughing smashing slicing balancing rafting kneeling dunking brushing crushing rubbing punting watering
    playing+music removing tearing imitating teaching cooking reaching studying serving bulldozing shaking
    discussing dragging gardening performing officiating photographing sowing dripping writing clawing bending
    boxing mopping gripping flowing digging tripping cheering buying bicycling feeding emptying unpacking sketching
    standing weeding stacking drying crying spinning frying cutting paying eating lecturing dancing
    adult+female+speaking boiling peeling wrapping wetting attacking welding putting swinging carving walking
    dressing inflating climbing shredding reading sanding frowning closing hunting clearing launching packaging
    fishing spilling leaking knitting boating sprinkling baptizing playing+sports rolling spitting dipping riding
    chopping extinguishing applauding calling talking adult+male+speaking snowing shaving marrying rising laughing
    crawling flying assembling injecting landing operating packing descending falling entering pushing sawing
    smelling overflowing fighting waking barbecuing skating painting drilling punching tying manicuring plunging
    grilling pitching towing telephoning crafting knocking playing+videogames storming placing turning barking
    child+singing opening waxing juggling mowing shooting sniffing interviewing stomping chewing arresting grooming
    rowing bowing gambling saluting fueling autographing throwing drenching waving signing repairing baking smoking
    skiing drumming child+speaking blowing cleaning combing spreading racing combusting adult+female+singing fencing
    swimming adult+male+singing snuggling shopping bouncing dusting stroking snapping biting roaring guarding
    unloading lifting instructing folding measuring whistling exiting stretching taping squinting catching draining
    massaging scrubbing handcuffing celebrating jogging colliding bowling resting blocking smiling tattooing
    erupting howling parading grinning sprinting hanging planting speaking ascending yawning cramming burning
    wrestling poking tickling exercising loading piloting typing
"""
MOMENTS_IN_TIME = tuple(_MOMENTS_IN_TIME.split())

# Jester v1 (20BN; Materzynska et al., ICCV Workshops 2019).
JESTER = tuple(
    """
    Swiping Left
    Swiping Right
    Swiping Down
    Swiping Up
    Pushing Hand Away
    Pulling Hand In
    Sliding Two Fingers Left
    Sliding Two Fingers Right
    Sliding Two Fingers Down
    Sliding Two Fingers Up
    Pushing Two Fingers Away
    Pulling Two Fingers In
    Rolling Hand Forward
    Rolling Hand Backward
    Turning Hand Clockwise
    Turning Hand Counterclockwise
    Zooming In With Full Hand
    Zooming Out With Full Hand
    Zooming In With Two Fingers
    Zooming Out With Two Fingers
    Thumb Up
    Thumb Down
    Shaking Hand
    Stop Sign
    Drumming Fingers
    No gesture
    Doing other things
    """.strip()
    .replace("    ", "")
    .splitlines()
)

# Something-Something v2 (arXiv 1706.04261): templates without brackets.
SOMETHING_SOMETHING = tuple(
    """
    Approaching something with your camera
    Attaching something to something
    Bending something so that it deforms
    Bending something until it breaks
    Burying something in something
    Closing something
    Covering something with something
    Digging something out of something
    Dropping something behind something
    Dropping something in front of something
    Dropping something into something
    Dropping something next to something
    Dropping something onto something
    Failing to put something into something because something does not fit
    Folding something
    Hitting something with something
    Holding something
    Holding something behind something
    Holding something in front of something
    Holding something next to something
    Holding something over something
    Laying something on the table on its side, not upright
    Letting something roll along a flat surface
    Letting something roll down a slanted surface
    Letting something roll up a slanted surface, so it rolls back down
    Lifting a surface with something on it but not enough for it to slide down
    Lifting a surface with something on it until it starts sliding down
    Lifting something up completely without letting it drop down
    Lifting something up completely, then letting it drop down
    Lifting something with something on it
    Lifting up one end of something without letting it drop down
    Lifting up one end of something, then letting it drop down
    Moving away from something with your camera
    Moving part of something
    Moving something across a surface until it falls down
    Moving something across a surface without it falling down
    Moving something and something away from each other
    Moving something and something closer to each other
    Moving something and something so they collide with each other
    Moving something and something so they pass each other
    Moving something away from something
    Moving something away from the camera
    Moving something closer to something
    Moving something down
    Moving something towards the camera
    Moving something up
    Opening something
    Picking something up
    Piling something up
    Plugging something into something
    Plugging something into something but pulling it right out as you remove your hand
    Poking a hole into some substance
    Poking a hole into something soft
    Poking a stack of something so the stack collapses
    Poking a stack of something without the stack collapsing
    Poking something so it slightly moves
    Poking something so lightly that it doesn't or almost doesn't move
    Poking something so that it falls over
    Poking something so that it spins around
    Pouring something into something
    Pouring something into something until it overflows
    Pouring something onto something
    Pouring something out of something
    Pretending or failing to wipe something off of something
    Pretending or trying and failing to twist something
    Pretending to be tearing something that is not tearable
    Pretending to close something without actually closing it
    Pretending to open something without actually opening it
    Pretending to pick something up
    Pretending to poke something
    Pretending to pour something out of something, but something is empty
    Pretending to put something behind something
    Pretending to put something into something
    Pretending to put something next to something
    Pretending to put something on a surface
    Pretending to put something onto something
    Pretending to put something underneath something
    Pretending to scoop something up with something
    Pretending to spread air onto something
    Pretending to sprinkle air onto something
    Pretending to squeeze something
    Pretending to take something from somewhere
    Pretending to take something out of something
    Pretending to throw something
    Pretending to turn something upside down
    Pulling something from behind of something
    Pulling something from left to right
    Pulling something from right to left
    Pulling something onto something
    Pulling something out of something
    Pulling two ends of something but nothing happens
    Pulling two ends of something so that it gets stretched
    Pulling two ends of something so that it separates into two pieces
    Pushing something from left to right
    Pushing something from right to left
    Pushing something off of something
    Pushing something onto something
    Pushing something so it spins
    Pushing something so that it almost falls off but doesn't
    Pushing something so that it falls off the table
    Pushing something so that it slightly moves
    Pushing something with something
    Putting number of something onto something
    Putting something and something on the table
    Putting something behind something
    Putting something in front of something
    Putting something into something
    Putting something next to something
    Putting something on a flat surface without letting it roll
    Putting something on a surface
    Putting something on the edge of something so it is not supported and falls down
    Putting something onto a slanted surface but it doesn't glide down
    Putting something onto something
    Putting something onto something else that cannot support it so it falls down
    Putting something similar to other things that are already on the table
    Putting something that can't roll onto a slanted surface, so it slides down
    Putting something that can't roll onto a slanted surface, so it stays where it is
    Putting something that cannot actually stand upright upright on the table, so it falls on its side
    Putting something underneath something
    Putting something upright on the table
    Putting something, something and something on the table
    Removing something, revealing something behind
    Rolling something on a flat surface
    Scooping something up with something
    Showing a photo of something to the camera
    Showing something behind something
    Showing something next to something
    Showing something on top of something
    Showing something to the camera
    Showing that something is empty
    Showing that something is inside something
    Something being deflected from something
    Something colliding with something and both are being deflected
    Something colliding with something and both come to a halt
    Something falling like a feather or paper
    Something falling like a rock
    Spilling something behind something
    Spilling something next to something
    Spilling something onto something
    Spinning something so it continues spinning
    Spinning something that quickly stops spinning
    Spreading something onto something
    Sprinkling something onto something
    Squeezing something
    Stacking number of something
    Stuffing something into something
    Taking one of many similar things on the table
    Taking something from somewhere
    Taking something out of something
    Tearing something into two pieces
    Tearing something just a little bit
    Throwing something
    Throwing something against something
    Throwing something in the air and catching it
    Throwing something in the air and letting it fall
    Throwing something onto a surface
    Tilting something with something on it slightly so it doesn't fall down
    Tilting something with something on it until it falls off
    Tipping something over
    Tipping something with something in it over, so something in it falls out
    Touching (without moving) part of something
    Trying but failing to attach something to something because it doesn't stick
    Trying to bend something unbendable so nothing happens
    Trying to pour something into something, but missing so it spills next to it
    Turning something upside down
    Turning the camera downwards while filming something
    Turning the camera left while filming something
    Turning the camera right while filming something
    Turning the camera upwards while filming something
    Twisting (wringing) something wet until water comes out
    Twisting something
    Uncovering something
    Unfolding something
    Wiping something off of something
    """.strip()
    .replace("    ", "")
    .splitlines()
)
