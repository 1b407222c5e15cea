"""Does every method learn, and do the directions that its paper reports hold here?"""
